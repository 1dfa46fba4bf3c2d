import { Progress } from "@mantine/core";

interface ProgressBarProps {
  /** 0 to 1. */
  value: number;
  label: string;
}

/** A thin bar with a value that screen readers can ask for. */
export function ProgressBar({ value, label }: ProgressBarProps) {
  const percent = Math.round(Math.min(1, Math.max(0, value)) * 100);
  return (
    <Progress.Root size={6} style={{ minWidth: 60, flex: 1 }}>
      <Progress.Section value={percent} color="var(--state-running)" aria-label={label} />
    </Progress.Root>
  );
}
