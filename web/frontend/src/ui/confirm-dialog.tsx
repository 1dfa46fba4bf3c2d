import { type ReactNode, useEffect, useId, useRef } from "react";

import classes from "./confirm-dialog.module.css";

interface ConfirmDialogProps {
  open: boolean;
  title: string;
  children: ReactNode;
  /** The buttons; the first one that should have the focus carries `autoFocus`. */
  actions: ReactNode;
  onClose: () => void;
}

/** A question over the page. The browser's own dialog keeps the focus inside and closes on Escape. */
export function ConfirmDialog({ open, title, children, actions, onClose }: ConfirmDialogProps) {
  const dialog = useRef<HTMLDialogElement>(null);
  const id = useId();

  useEffect(() => {
    const element = dialog.current;
    if (!element) return;
    if (open && !element.open) element.showModal();
    if (!open && element.open) element.close();
  }, [open]);

  return (
    <dialog
      ref={dialog}
      className={classes.dialog}
      aria-labelledby={id}
      onClose={onClose}
      onClick={(event) => {
        if (event.target === dialog.current) onClose();
      }}
    >
      {open && (
        <div className={classes.body}>
          <h2 id={id}>{title}</h2>
          {children}
          <div className={classes.actions}>{actions}</div>
        </div>
      )}
    </dialog>
  );
}
