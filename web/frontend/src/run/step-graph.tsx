import "@xyflow/react/dist/base.css";

import dagre from "@dagrejs/dagre";
import { useElementSize } from "@mantine/hooks";
import {
  Controls,
  type Edge,
  Handle,
  MarkerType,
  type Node,
  type NodeProps,
  Position,
  ReactFlow,
  ReactFlowProvider,
  useReactFlow,
  useStore,
} from "@xyflow/react";
import { memo, useEffect, useMemo } from "react";

import { StateIcon, stateWord } from "@/ui/state";
import classes from "./graph.module.css";
import { directDependencies, type StepGroup } from "./step-groups";

const MOST_HEIGHT = 460;

/** Nodes stay large enough to be hit with a finger (24 px); what does not fit is reached by panning. */
const SMALLEST = 0.6;

/** How much room a node takes, and which way the graph runs. */
interface Shape {
  vertical: boolean;
  compact: boolean;
  width: number;
  height: number;
}

const ROOMY: Shape = { vertical: false, compact: false, width: 190, height: 58 };
const COMPACT: Shape = { vertical: false, compact: true, width: 160, height: 42 };
const NARROW: Shape = { vertical: true, compact: true, width: 140, height: 42 };

/** What fits into a frame of this width, in pixels. */
function shapeFor(width: number): Shape {
  if (width >= 900) return ROOMY;
  return width >= 520 ? COMPACT : NARROW;
}

type StepNode = Node<{ group: StepGroup; shape: Shape }, "step">;

interface StepGraphProps {
  groups: StepGroup[];
  selected: string | undefined;
  onSelect: (name: string) => void;
}

/** How the steps depend on each other. The table beside it says the same in words. */
export function StepGraph(props: StepGraphProps) {
  return (
    <ReactFlowProvider>
      <Flow {...props} />
    </ReactFlowProvider>
  );
}

const nodeTypes = { step: memo(StepNodeView) };

function Flow({ groups, selected, onSelect }: StepGraphProps) {
  const { ref, width } = useElementSize();
  const shape = shapeFor(width || 900);
  const structure = JSON.stringify(groups.map((group) => [group.name, group.after]));
  const places = useMemo(() => layout(groups, shape), [structure, shape]); // eslint-disable-line react-hooks/exhaustive-deps
  const nodes = useMemo<StepNode[]>(
    () =>
      groups.map((group) => ({
        id: group.name,
        type: "step",
        position: places.nodes.get(group.name) ?? { x: 0, y: 0 },
        data: { group, shape },
        selected: group.name === selected,
        // Sizes are known beforehand, so nothing has to be measured in the page before the graph can be fitted.
        measured: { width: shape.width, height: shape.height },
        width: shape.width,
        height: shape.height,
        ariaLabel: `${group.name}: ${stateWord(group.state)}`,
        ariaRole: "button",
        domAttributes: { "aria-roledescription": undefined },
      })),
    [groups, places, selected, shape],
  );
  const edges = useMemo<Edge[]>(
    () =>
      places.dependencies.map(([source, target]) => ({
        id: `${source}>${target}`,
        source,
        target,
        focusable: false,
        markerEnd: { type: MarkerType.ArrowClosed, color: "var(--line-strong)" },
      })),
    [places],
  );
  return (
    <div
      ref={ref}
      className={classes.frame}
      style={{ height: Math.min(MOST_HEIGHT, Math.max(150, places.height + 56)) }}
    >
      <ReactFlow
        nodes={nodes}
        edges={edges}
        nodeTypes={nodeTypes}
        onNodeClick={(_, node) => onSelect(node.id)}
        onKeyDown={(event) => {
          const node = (event.target as HTMLElement).dataset.id;
          if (node && (event.key === "Enter" || event.key === " ")) onSelect(node);
        }}
        nodesDraggable={false}
        nodesConnectable={false}
        edgesFocusable={false}
        zoomOnScroll={false}
        preventScrolling={false}
        minZoom={SMALLEST}
        maxZoom={1.25}
        proOptions={{ hideAttribution: true }}
      >
        <Controls showInteractive={false} position="bottom-right" orientation="horizontal" />
        <KeepInView places={places} />
      </ReactFlow>
    </div>
  );
}

/** Fits the graph into its frame when either changes. */
function KeepInView({ places }: { places: unknown }) {
  const { fitView } = useReactFlow();
  const width = useStore((store) => store.width);
  const height = useStore((store) => store.height);
  useEffect(() => {
    if (width > 0 && height > 0) void fitView({ padding: 0.06, minZoom: SMALLEST, maxZoom: 1 });
  }, [fitView, places, width, height]);
  return null;
}

function StepNodeView({ data: { group, shape }, selected }: NodeProps<StepNode>) {
  return (
    <div
      className={classes.node}
      data-state={group.state}
      data-selected={selected}
      data-compact={shape.compact}
      title={`${group.name}, ${group.uses}`}
    >
      <Handle type="target" position={shape.vertical ? Position.Top : Position.Left} isConnectable={false} />
      <StateIcon state={group.state} />
      <div className={classes.text}>
        <span className={classes.name}>{group.name}</span>
        {(group.scattered || !shape.compact) && (
          <span className={classes.uses}>
            {group.scattered ? `${doneItems(group)} of ${group.steps.length} items` : group.uses}
          </span>
        )}
      </div>
      {group.state === "running" && (
        <span className={classes.bar} style={{ width: `${Math.round(group.progress * 100)}%` }} />
      )}
      <Handle
        type="source"
        position={shape.vertical ? Position.Bottom : Position.Right}
        isConnectable={false}
      />
    </div>
  );
}

function doneItems({ counts }: StepGroup): number {
  return (counts.succeeded ?? 0) + (counts.cached ?? 0);
}

function layout(groups: StepGroup[], { vertical, compact, width, height }: Shape) {
  const graph = new dagre.graphlib.Graph();
  const ranksep = compact ? 26 : 44;
  graph.setGraph({ rankdir: vertical ? "TB" : "LR", nodesep: 16, ranksep });
  graph.setDefaultEdgeLabel(() => ({}));
  const dependencies = [...directDependencies(groups)].flatMap(([target, sources]) =>
    sources.map((source): [string, string] => [source, target]),
  );
  for (const group of groups) graph.setNode(group.name, { width, height });
  for (const [source, target] of dependencies) graph.setEdge(source, target);
  dagre.layout(graph);
  const nodes = new Map(
    groups.map((group) => {
      const { x, y } = graph.node(group.name);
      return [group.name, { x: x - width / 2, y: y - height / 2 }];
    }),
  );
  return { nodes, dependencies, height: graph.graph().height ?? height };
}
