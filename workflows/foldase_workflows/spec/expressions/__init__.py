"""The expression language inside ``${{ }}``: total, typed, without side effects."""
