import { useEffect, useState } from "react";

/** The present time in milliseconds, renewed while `ticking`. */
export function useNow(ticking: boolean, milliseconds = 1000): number {
  const [now, setNow] = useState(() => Date.now());
  useEffect(() => {
    if (!ticking) return;
    setNow(Date.now());
    const timer = setInterval(() => setNow(Date.now()), milliseconds);
    return () => clearInterval(timer);
  }, [ticking, milliseconds]);
  return now;
}
