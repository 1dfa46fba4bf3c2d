import { type ReactNode, useEffect, useRef, useState } from "react";

import classes from "./scroll-box.module.css";

/** Scrolls sideways where its content is wider than the page; only then it can be reached by keyboard. */
export function ScrollBox({ children }: { children: ReactNode }) {
  const box = useRef<HTMLDivElement>(null);
  const [overflows, setOverflows] = useState(false);
  useEffect(() => {
    const element = box.current;
    if (!element) return;
    const measure = () => setOverflows(element.scrollWidth > element.clientWidth);
    const observer = new ResizeObserver(measure);
    observer.observe(element);
    for (const child of element.children) observer.observe(child);
    return () => observer.disconnect();
  }, []);
  return (
    <div ref={box} className={classes.box} tabIndex={overflows ? 0 : undefined}>
      {children}
    </div>
  );
}
