/**
 * Mol* without its own interface: one structure, coloured by confidence, with residues that can be marked.
 * This module is large and only ever loaded lazily.
 */
import { PLDDTConfidenceColorThemeProvider } from "molstar/lib/extensions/model-archive/quality-assessment/color/plddt.js";
import { QualityAssessmentProvider } from "molstar/lib/extensions/model-archive/quality-assessment/prop.js";
import { EmptyLoci } from "molstar/lib/mol-model/loci.js";
import { StructureElement, StructureProperties, type Structure } from "molstar/lib/mol-model/structure.js";
import { PluginBehaviors } from "molstar/lib/mol-plugin/behavior.js";
import { PluginContext } from "molstar/lib/mol-plugin/context.js";
import { PluginSpec } from "molstar/lib/mol-plugin/spec.js";
import { CartoonRepresentationProvider } from "molstar/lib/mol-repr/structure/representation/cartoon.js";
import { Color } from "molstar/lib/mol-util/color/index.js";

/** Inclusive range of residues, counted from 1 along the chain; of every chain where none is named. */
export interface ResidueRange {
  chain?: string;
  from: number;
  to: number;
}

export interface ViewerOptions {
  background: number;
  /** Draw less finely: for machines without a graphics card. */
  frugal: boolean;
  onHover: (residue: Residue | null) => void;
}

/** A residue, counted from 1 along its chain. */
export interface Residue {
  chain: string;
  number: number;
}

const MARK = Color(0x2a66cf);

/** A viewer inside an element of the page. */
export class MolViewer {
  private structure: Structure | null = null;
  private ranges: ResidueRange[] = [];

  private constructor(private readonly plugin: PluginContext) {}

  /**
   * Sets up WebGL in `host`, which must be positioned.
   *
   * @throws Error when WebGL cannot be set up.
   */
  static async create(host: HTMLElement, options: ViewerOptions): Promise<MolViewer> {
    const plugin = new PluginContext(specification());
    await plugin.init();
    registerConfidence(plugin);
    const mounted = await plugin.mountAsync(host);
    if (!mounted || !plugin.canvas3d) {
      plugin.dispose();
      throw new Error("WebGL could not be set up");
    }
    const viewer = new MolViewer(plugin);
    viewer.configure(options);
    viewer.reportHover(options.onHover);
    return viewer;
  }

  /** Shows an mmCIF document instead of what was shown before. */
  async show(mmcif: string, label: string): Promise<void> {
    const { plugin } = this;
    this.structure = null;
    await plugin.clear();
    const data = await plugin.builders.data.rawData({ data: mmcif, label });
    const trajectory = await plugin.builders.structure.parseTrajectory(data, "mmcif");
    const model = await plugin.builders.structure.createModel(trajectory);
    const structure = await plugin.builders.structure.createStructure(model);
    const component = await plugin.builders.structure.tryCreateComponentStatic(structure, "all");
    if (!component) throw new Error("the file holds no atoms");
    await plugin.builders.structure.representation.addRepresentation(component, {
      type: CartoonRepresentationProvider,
      typeParams: { sizeFactor: 0.3, tubularHelices: false, quality: "auto" },
      color: PLDDTConfidenceColorThemeProvider,
    });
    this.structure = structure.cell?.obj?.data ?? null;
    this.mark(this.ranges);
    plugin.managers.camera.reset(undefined, 0);
  }

  /** Marks residues; none are marked with an empty list. Returns how many ranges were found. */
  mark(ranges: ResidueRange[]): number {
    this.ranges = ranges;
    const { lociSelects } = this.plugin.managers.interactivity;
    lociSelects.deselectAll();
    if (!this.structure || ranges.length === 0) return 0;
    const loci = StructureElement.Loci.fromSchema(this.structure, {
      items: ranges.map(({ chain, from, to }) => ({
        ...(chain === undefined ? {} : { label_asym_id: chain }),
        beg_label_seq_id: from,
        end_label_seq_id: to,
      })),
    });
    if (StructureElement.Loci.isEmpty(loci)) return 0;
    lociSelects.select({ loci }, false);
    return ranges.length;
  }

  setBackground(background: number): void {
    this.plugin.canvas3d?.setProps({ renderer: { backgroundColor: Color(background) } });
  }

  resetView(): void {
    this.plugin.managers.camera.reset();
  }

  dispose(): void {
    this.plugin.managers.interactivity.lociHighlights.highlightOnly({ loci: EmptyLoci });
    this.plugin.dispose();
  }

  private configure({ background, frugal }: ViewerOptions): void {
    const canvas = this.plugin.canvas3d;
    if (!canvas) return;
    canvas.setProps({
      renderer: { backgroundColor: Color(background), selectColor: MARK, selectStrength: 0.8 },
      marking: { selectEdgeColor: MARK },
      camera: { helper: { axes: { name: "off", params: {} } } },
      cameraFog: { name: "off", params: {} },
      ...(frugal
        ? { multiSample: { mode: "off", sampleLevel: 0, reduceFlicker: false, reuseOcclusion: false } }
        : {}),
    });
  }

  private reportHover(onHover: (residue: Residue | null) => void): void {
    const location = StructureElement.Location.create(undefined);
    this.plugin.behaviors.interaction.hover.subscribe(({ current }) => {
      if (!StructureElement.Loci.is(current.loci)) {
        onHover(null);
        return;
      }
      const first = StructureElement.Loci.getFirstLocation(current.loci, location);
      onHover(
        first
          ? {
              chain: StructureProperties.chain.label_asym_id(first),
              number: StructureProperties.residue.label_seq_id(first),
            }
          : null,
      );
    });
  }
}

function specification(): PluginSpec {
  return {
    actions: [],
    behaviors: [
      PluginSpec.Behavior(PluginBehaviors.Representation.HighlightLoci),
      PluginSpec.Behavior(PluginBehaviors.Representation.SelectLoci),
      PluginSpec.Behavior(PluginBehaviors.Camera.FocusLoci),
      PluginSpec.Behavior(PluginBehaviors.Camera.CameraControls),
      PluginSpec.Behavior(PluginBehaviors.CustomProps.SecondaryStructure),
    ],
    animations: [],
  };
}

/** The colours of AlphaFold DB, without the parts of Mol*'s extension that need its React interface. */
function registerConfidence(plugin: PluginContext): void {
  plugin.customModelProperties.register(QualityAssessmentProvider, true);
  plugin.representation.structure.themes.colorThemeRegistry.add(PLDDTConfidenceColorThemeProvider);
}
