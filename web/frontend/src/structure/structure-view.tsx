import { Button, useComputedColorScheme } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useRef, useState } from "react";

import { fileUrl } from "@/api/artifacts";
import { fetchRaw } from "@/api/client";
import { LoadingLines } from "@/ui/loading";
import { Notice } from "@/ui/notice";
import { ProblemAlert } from "@/ui/problem-alert";
import type { MolViewer, Residue, ResidueRange } from "./mol-viewer";
import classes from "./structure.module.css";
import { detectWebGl } from "./webgl";

const BACKGROUND = { light: 0xffffff, dark: 0x18201e };

interface StructureViewProps {
  digest: string;
  file: string;
  ranges: ResidueRange[];
}

/** A structure in three dimensions, or the reason why there is none. The download works either way. */
export function StructureView({ digest, file, ranges }: StructureViewProps) {
  const [webGl] = useState(detectWebGl);
  const text = useQuery({
    queryKey: ["structure", digest, file],
    queryFn: async ({ signal }) => (await fetchRaw(fileUrl(digest, file), signal)).text(),
    staleTime: Infinity,
  });
  if (webGl === "none") {
    return (
      <div data-structure="no-webgl">
        <Notice title="This browser cannot draw three dimensions">
          WebGL is switched off or missing. The structure can be downloaded and opened in any viewer; the
          confidence along the chain is below.
        </Notice>
      </div>
    );
  }
  if (text.isPending) return <LoadingLines lines={6} what="the structure" />;
  if (text.isError) {
    return (
      <ProblemAlert
        title="The structure could not be loaded"
        error={text.error}
        onRetry={() => void text.refetch()}
      />
    );
  }
  return <Scene text={text.data} label={file} ranges={ranges} frugal={webGl === "software"} />;
}

interface SceneProps {
  text: string;
  label: string;
  ranges: ResidueRange[];
  frugal: boolean;
}

function Scene({ text, label, ranges, frugal }: SceneProps) {
  const host = useRef<HTMLDivElement>(null);
  const scheme = useComputedColorScheme("light");
  const [viewer, setViewer] = useState<MolViewer | null>(null);
  const [shown, setShown] = useState<string | null>(null);
  const [marked, setMarked] = useState(0);
  const [hover, setHover] = useState<Residue | null>(null);
  const [error, setError] = useState<unknown>(null);
  const firstScheme = useRef(scheme);

  useEffect(() => {
    const element = host.current;
    if (!element) return;
    let disposed = false;
    let made: MolViewer | null = null;
    const start = async () => {
      const { MolViewer } = await import("./mol-viewer");
      if (disposed) return;
      const background = BACKGROUND[firstScheme.current];
      made = await MolViewer.create(element, { background, frugal, onHover: setHover });
      if (disposed) made.dispose();
      else setViewer(made);
    };
    start().catch((failure: unknown) => setError(failure));
    return () => {
      disposed = true;
      made?.dispose();
      setViewer(null);
      setShown(null);
    };
  }, [frugal]);

  useEffect(() => {
    if (!viewer) return;
    let stale = false;
    viewer.show(text, label).then(
      () => {
        if (!stale) setShown(label);
      },
      (failure: unknown) => setError(failure),
    );
    return () => {
      stale = true;
    };
  }, [viewer, text, label]);

  useEffect(() => {
    if (viewer && shown) setMarked(viewer.mark(ranges));
  }, [viewer, shown, ranges]);

  useEffect(() => viewer?.setBackground(BACKGROUND[scheme]), [viewer, scheme]);

  if (error !== null) {
    return (
      <div data-structure="error">
        <ProblemAlert title="The structure could not be drawn" error={error} />
      </div>
    );
  }
  return (
    <div data-structure={shown === label ? "ready" : "loading"} data-marked={marked}>
      <div className={classes.stage}>
        <div
          ref={host}
          className={classes.host}
          role="img"
          aria-label={`Structure of ${label}, coloured by confidence`}
        />
        {shown !== label && (
          <div className={classes.wait}>
            <LoadingLines lines={2} what="the structure viewer" />
          </div>
        )}
      </div>
      <div className={classes.under}>
        <span className="muted">
          {hover === null
            ? "Drag turns, scrolling zooms."
            : `Residue ${hover.number} of chain ${hover.chain}`}
        </span>
        <Button size="compact-xs" variant="default" onClick={() => viewer?.resetView()} disabled={!viewer}>
          Reset the view
        </Button>
      </div>
    </div>
  );
}
