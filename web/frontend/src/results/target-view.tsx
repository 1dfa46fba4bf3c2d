import { useQuery } from "@tanstack/react-query";
import { getRouteApi } from "@tanstack/react-router";
import { type ReactNode, useMemo } from "react";

import { arrayQuery, fileUrl, groupQuery } from "@/api/artifacts";
import { artifactQuery } from "@/api/queries";
import type { Artifact, GroupInfo } from "@/api/types";
import type { ResidueRange } from "@/structure/mol-viewer";
import { StructureView } from "@/structure/structure-view";
import { formatNumber } from "@/ui/format";
import { DownloadIcon } from "@/ui/icons";
import { LoadingLines } from "@/ui/loading";
import { Panel } from "@/ui/page";
import { ProblemAlert } from "@/ui/problem-alert";
import { type Chain, chainBorders, chainsOf, rangesInChains, residueName } from "./chains";
import { BandLegend, ConfidenceTrack } from "./confidence-track";
import { formatSelection, parseSelection, type Selection, toContactMap } from "./contact-map-data";
import { ContactPanel } from "./contact-panel";
import type { FoldEntry } from "./folds";
import { PaePanel } from "./pae-panel";
import classes from "./results.module.css";
import { TopContacts } from "./top-contacts";

const route = getRouteApi("/runs/$id/results");

interface TargetViewProps {
  digest: string;
  target: string;
  cutoff: number | null;
  minSeparation: number;
  method: string | null;
  /** Whether the mirror image of a structure explains the predictions as well. */
  eitherHand: boolean;
  structures: Artifact | null;
  /** Where its other arrays lie, for a target that was folded. */
  fold: FoldEntry | null;
  scores: ReactNode;
}

interface TargetAttributes {
  length?: number;
  sequence?: string;
  scores?: Record<string, number>;
}

/** One target: its map, its structure, its confidence, one selection for all three. */
export function TargetView(props: TargetViewProps) {
  const group = useQuery(groupQuery(props.digest, props.target));
  if (group.isPending) return <LoadingLines lines={8} what="the target" />;
  if (group.isError) {
    return (
      <ProblemAlert
        title={`The target ${props.target} could not be read`}
        error={group.error}
        onRetry={() => void group.refetch()}
      />
    );
  }
  return <LoadedTarget {...props} group={group.data} />;
}

function LoadedTarget({ group, ...props }: TargetViewProps & { group: GroupInfo }) {
  const { digest, target, cutoff, minSeparation, method, eitherHand, structures, fold, scores } = props;
  const has = (name: string) => group.arrays.some((array) => array.name === name);
  const attributes = group.attributes as TargetAttributes;
  const sequence = attributes.sequence ?? null;
  const chains = useChains(fold);
  const separators = useMemo(() => chainBorders(chains), [chains]);
  const nameOf = (residue: number) => residueName(chains, sequence, residue);
  const probability = useQuery(arrayQuery(digest, `${target}/contact_probability`));
  const truth = useQuery({ ...arrayQuery(digest, `${target}/truth`), enabled: has("truth") });
  const confidence = useQuery({ ...arrayQuery(digest, `${target}/confidence`), enabled: has("confidence") });
  const map = useMemo(() => {
    if (!probability.data || (has("truth") && !truth.data)) return null;
    return toContactMap(probability.data, truth.data ?? null, minSeparation);
  }, [probability.data, truth.data, minSeparation]); // eslint-disable-line react-hooks/exhaustive-deps
  const [selection, select] = useSelection(map?.length ?? 0);
  const ranges = useMemo(
    () =>
      selection ? [selection.rows, selection.columns].flatMap((range) => rangesInChains(chains, range)) : [],
    [selection, chains],
  );
  const failed = [probability, truth, confidence].find((query) => query.isError);

  if (failed) {
    return (
      <ProblemAlert
        title="The contact map could not be read"
        error={failed.error}
        onRetry={() => void failed.refetch()}
      />
    );
  }
  if (!map) return <LoadingLines lines={8} what="the contact map" />;
  const contactMap = (
    <ContactPanel
      map={map}
      nameOf={nameOf}
      separators={separators}
      cutoff={cutoff}
      selection={selection}
      onSelect={select}
    />
  );
  const contacts = <TopContacts map={map} nameOf={nameOf} selection={selection} onSelect={select} />;
  const tables = (
    <div className={classes.target}>
      {contacts}
      {scores}
    </div>
  );
  return (
    <div className={classes.target} data-target={target}>
      <TargetFacts length={map.length} chains={chains.length} method={method} scores={attributes.scores} />
      <div className={classes.pair}>
        {!fold && contactMap}
        {structures && (
          <StructurePanel target={target} structures={structures} ranges={ranges} eitherHand={eitherHand} />
        )}
        {!fold && !structures && tables}
        {fold && (
          <PaePanel
            key={`${fold.digest} ${fold.path}`}
            fold={fold}
            nameOf={nameOf}
            separators={separators}
            selection={selection}
            onSelect={select}
          />
        )}
      </div>
      {confidence.data && (
        <ConfidenceTrack
          values={Float32Array.from(confidence.data.data)}
          nameOf={nameOf}
          selection={selection}
          onSelect={select}
        />
      )}
      {fold && (
        <div className={classes.pair}>
          {contactMap}
          {tables}
        </div>
      )}
      {!fold && structures && (
        <div className={classes.pair}>
          {contacts}
          <div className={classes.target}>{scores}</div>
        </div>
      )}
    </div>
  );
}

interface RecordAttributes {
  chains?: string[];
}

const NO_CHAINS: Chain[] = [];

/** The chains of a folded target; none where it is not known how many there are, or not yet. */
function useChains(fold: FoldEntry | null): Chain[] {
  const path = `inputs/${fold?.record ?? ""}`;
  const record = useQuery({ ...groupQuery(fold?.digest ?? "", path), enabled: fold !== null });
  const sequences = (record.data?.attributes as RecordAttributes | undefined)?.chains;
  return useMemo(() => (sequences ? chainsOf(sequences) : NO_CHAINS), [sequences]);
}

/** The selected residues live in the address, so that a link shows the same to others. */
function useSelection(length: number): [Selection | null, (selection: Selection | null) => void] {
  const { sel } = route.useSearch();
  const navigate = route.useNavigate();
  const selection = useMemo(() => parseSelection(sel, length), [sel, length]);
  const select = (next: Selection | null) =>
    void navigate({
      search: (previous) => ({ ...previous, sel: next ? formatSelection(next) : undefined }),
      replace: true,
      resetScroll: false,
    });
  return [selection, select];
}

interface TargetFactsProps {
  length: number;
  chains: number;
  method: string | null;
  scores: Record<string, number> | undefined;
}

function TargetFacts({ length, chains, method, scores }: TargetFactsProps) {
  return (
    <p className={classes.facts}>
      <span>
        {length} residues{chains > 1 && ` in ${chains} chains`}
      </span>
      {method && <span>method {method}</span>}
      {Object.entries(scores ?? {}).map(([name, value]) => (
        <span key={name}>
          {name.replaceAll("_", " ")} <strong>{formatNumber(value, 3)}</strong>
        </span>
      ))}
    </p>
  );
}

interface StructurePanelProps {
  target: string;
  structures: Artifact;
  ranges: ResidueRange[];
  eitherHand: boolean;
}

function StructurePanel({ target, structures, ranges, eitherHand }: StructurePanelProps) {
  const tree = useQuery(artifactQuery(structures.digest));
  const file = `${target}.cif`;
  const exists = tree.data?.files?.some((one) => one.path === file);
  if (tree.data && !exists) {
    return (
      <Panel title="Structure">
        <p className="muted">No structure was predicted for this target.</p>
      </Panel>
    );
  }
  return (
    <Panel
      title="Structure"
      actions={
        <a className={classes.download} href={fileUrl(structures.digest, file)} download={file}>
          <DownloadIcon /> {file}
        </a>
      }
    >
      {tree.isError && <ProblemAlert title="The structures could not be listed" error={tree.error} />}
      {tree.isPending && <LoadingLines lines={6} what="the structure" />}
      {exists && <StructureView digest={structures.digest} file={file} ranges={ranges} />}
      <BandLegend />
      {eitherHand && (
        <p className={classes.note}>
          A trace of C-alpha atoms, made from predicted contacts. Contacts know no handedness: the true fold
          may be the mirror image of what is shown.
        </p>
      )}
    </Panel>
  );
}
