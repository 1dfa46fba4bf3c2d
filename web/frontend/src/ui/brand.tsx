import classes from "./brand.module.css";

/** The mark and the name. */
export function Brand() {
  return (
    <span className={classes.brand}>
      <svg viewBox="0 0 32 32" width="24" height="24" aria-hidden="true">
        <rect width="32" height="32" rx="7" className={classes.tile} />
        <path
          d="M9 25V13.5a6.5 6.5 0 0 1 13 0c0 4-4.2 4.2-4.2 7.2 0 1.8 1.3 2.8 3.2 2.8"
          className={classes.chain}
        />
        <circle cx="9" cy="25" r="2.2" className={classes.end} />
      </svg>
      <span>foldase</span>
    </span>
  );
}
