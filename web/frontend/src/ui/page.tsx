import { type ReactNode, useEffect } from "react";

import classes from "./page.module.css";
import { ScrollBox } from "./scroll-box";

interface PageProps {
  /** The name of the document in the browser's tab. */
  title: string;
  heading?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  /** `ready`, `loading` or `error`: what tests and scripts wait for. */
  state?: "ready" | "loading" | "error";
}

/** The frame of every page: its title, its heading with actions, its content. */
export function Page({ title, heading, actions, children, state = "ready" }: PageProps) {
  useEffect(() => {
    document.title = `${title} · foldase`;
  }, [title]);
  return (
    <div className={classes.page} data-page-state={state}>
      <div className={classes.head}>
        <div className={classes.heading}>{heading ?? <h1>{title}</h1>}</div>
        {actions && <div className={classes.actions}>{actions}</div>}
      </div>
      {children}
    </div>
  );
}

interface PanelProps {
  title?: ReactNode;
  actions?: ReactNode;
  children: ReactNode;
  label?: string;
  flush?: boolean;
}

/** A bordered part of a page. `flush` leaves out the padding, for tables. */
export function Panel({ title, actions, children, label, flush = false }: PanelProps) {
  return (
    <section className={classes.panel} aria-label={label ?? (typeof title === "string" ? title : undefined)}>
      {(title || actions) && (
        <div className={classes.panelHead}>
          {title && <h2>{title}</h2>}
          {actions}
        </div>
      )}
      {flush ? <ScrollBox>{children}</ScrollBox> : <div className={classes.panelBody}>{children}</div>}
    </section>
  );
}
