import { Skeleton } from "@mantine/core";

/** Grey lines where text will stand; announced once. */
export function LoadingLines({ lines = 4, what }: { lines?: number; what: string }) {
  return (
    <div data-state="loading" role="status">
      <span className="visually-hidden">Loading {what}</span>
      {Array.from({ length: lines }, (_, index) => (
        <Skeleton key={index} height={18} mb={10} width={`${96 - ((index * 17) % 40)}%`} />
      ))}
    </div>
  );
}
