import type { Cluster } from "@/api/types";
import { formatBytes } from "@/ui/format";
import classes from "./cluster.module.css";

type Node = Cluster["nodes"][number];

/** The machines, with what of them is in use. */
export function NodeCards({ nodes }: { nodes: Node[] }) {
  return (
    <ul className={classes.nodes} aria-label="Nodes">
      {nodes.map((node) => (
        <li key={node.id} className={classes.node} data-node={node.id} data-alive={node.alive}>
          <div className={classes.nodeHead}>
            <strong>{node.name}</strong>
            {!node.alive && <span className={classes.lost}>lost</span>}
          </div>
          <Usage
            name="CPU"
            used={node.cpus_used}
            total={node.cpus}
            format={(value) => String(round(value))}
          />
          <Usage name="Memory" used={node.memory_used} total={node.memory_bytes} format={formatBytes} />
          {node.gpus.map((gpu, index) => (
            <Usage
              key={index}
              name={gpu.name || `GPU ${index}`}
              used={gpu.memory_used}
              total={gpu.memory_bytes}
              format={formatBytes}
            />
          ))}
          {Object.keys(node.labels).length > 0 && (
            <p className={classes.labels}>
              {Object.entries(node.labels)
                .map(([name, value]) => `${name}=${value}`)
                .join(", ")}
            </p>
          )}
        </li>
      ))}
    </ul>
  );
}

interface UsageProps {
  name: string;
  used: number | null;
  total: number;
  format: (value: number) => string;
}

function Usage({ name, used, total, format }: UsageProps) {
  const share = used === null || total <= 0 ? 0 : Math.min(1, used / total);
  return (
    <div className={classes.usage}>
      <div className={classes.usageText}>
        <span>{name}</span>
        <span className="muted">{used === null ? format(total) : `${format(used)} of ${format(total)}`}</span>
      </div>
      <div className={classes.bar} aria-hidden="true">
        <span style={{ width: `${share * 100}%` }} data-tight={share > 0.9} />
      </div>
    </div>
  );
}

function round(value: number): number {
  return Math.round(value * 10) / 10;
}
