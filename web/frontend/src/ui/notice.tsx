import type { ReactNode } from "react";

import classes from "./notice.module.css";

interface NoticeProps {
  kind?: "info" | "warning" | "danger";
  title?: ReactNode;
  children?: ReactNode;
  /** `status` is announced when it appears; use it for what changes while the page is open. */
  live?: boolean;
}

/** A short message inside a page. */
export function Notice({ kind = "info", title, children, live = false }: NoticeProps) {
  const colour = kind === "info" ? "" : classes[kind];
  return (
    <div className={`${classes.notice} ${colour}`} role={live ? "status" : undefined} data-notice={kind}>
      {title && <p className={classes.title}>{title}</p>}
      {children}
    </div>
  );
}

interface EmptyProps {
  title: string;
  children?: ReactNode;
}

/** What stands where there is nothing yet, and how to get something. */
export function Empty({ title, children }: EmptyProps) {
  return (
    <div className={classes.empty} data-state="empty">
      <h2>{title}</h2>
      {children}
    </div>
  );
}
