import { ActionIcon } from "@mantine/core";
import { useClipboard } from "@mantine/hooks";

import classes from "./copy.module.css";
import { CheckIcon, CopyIcon } from "./icons";

interface CopyButtonProps {
  value: string;
  /** What is copied: "run id". */
  what: string;
}

/** A small button that copies a text. */
export function CopyButton({ value, what }: CopyButtonProps) {
  const clipboard = useClipboard({ timeout: 1500 });
  const label = clipboard.copied ? "Copied" : `Copy ${what}`;
  return (
    <ActionIcon
      variant="subtle"
      color="gray"
      size={24}
      aria-label={label}
      title={label}
      onClick={() => clipboard.copy(value)}
    >
      {clipboard.copied ? <CheckIcon /> : <CopyIcon />}
    </ActionIcon>
  );
}

/** A command to be run elsewhere, with a button that copies it. */
export function CommandLine({ command, what }: { command: string; what: string }) {
  return (
    <div className={classes.command}>
      <pre tabIndex={0} aria-label={what}>
        {command}
      </pre>
      <CopyButton value={command} what={what} />
    </div>
  );
}
