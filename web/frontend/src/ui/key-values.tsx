import type { ReactNode } from "react";

import classes from "./key-values.module.css";

/** Names and values as a description list. */
export function KeyValues({ rows }: { rows: [name: string, value: ReactNode][] }) {
  return (
    <dl className={classes.list}>
      {rows.map(([name, value]) => (
        <div key={name} className={classes.row}>
          <dt>{name}</dt>
          <dd>{value}</dd>
        </div>
      ))}
    </dl>
  );
}
