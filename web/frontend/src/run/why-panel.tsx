import { useQuery } from "@tanstack/react-query";
import { Link } from "@tanstack/react-router";

import { whyQuery } from "@/api/queries";
import { formatValue } from "@/ui/format";
import { LoadingLines } from "@/ui/loading";
import { ProblemAlert } from "@/ui/problem-alert";
import { ScrollBox } from "@/ui/scroll-box";
import table from "@/ui/table.module.css";

/** Why a step ran again, or was taken from the cache: the part of its identity that changed. */
export function WhyPanel({ run, step, state }: { run: string; step: string; state: string }) {
  const why = useQuery(whyQuery(run, step, state));
  if (why.isPending) return <LoadingLines lines={2} what="the reason" />;
  if (why.isError) {
    return (
      <ProblemAlert
        title="The reason could not be read"
        error={why.error}
        onRetry={() => void why.refetch()}
      />
    );
  }
  const { reason, differs, compared_with: other } = why.data;
  return (
    <div data-why={why.data.ran ? "ran" : "cached"}>
      <p>{reason}</p>
      {other && (
        <p className="muted">
          Compared with{" "}
          <Link to="/runs/$id" params={{ id: other.run }} search={{ step: other.step }}>
            <span className="mono">{other.step}</span> of <span className="mono">{other.run}</span>
          </Link>
          .
        </p>
      )}
      {differs.length > 0 && (
        <ScrollBox>
          <table className={table.table}>
            <thead>
              <tr>
                <th scope="col">What changed</th>
                <th scope="col">Before</th>
                <th scope="col">Now</th>
              </tr>
            </thead>
            <tbody>
              {differs.map((difference) => (
                <tr key={difference.component}>
                  <td className="mono">{difference.component}</td>
                  <td className="mono">{formatValue(difference.before)}</td>
                  <td className="mono">{formatValue(difference.now)}</td>
                </tr>
              ))}
            </tbody>
          </table>
        </ScrollBox>
      )}
    </div>
  );
}
