import { autocompletion, type CompletionContext, completionKeymap } from "@codemirror/autocomplete";
import { defaultKeymap, history, historyKeymap, indentWithTab } from "@codemirror/commands";
import { yaml } from "@codemirror/lang-yaml";
import { bracketMatching, HighlightStyle, indentOnInput, syntaxHighlighting } from "@codemirror/language";
import { type Diagnostic, lintGutter, setDiagnostics } from "@codemirror/lint";
import { EditorState } from "@codemirror/state";
import { drawSelection, EditorView, highlightActiveLine, keymap, lineNumbers } from "@codemirror/view";
import { tags } from "@lezer/highlight";
import { type Ref, useEffect, useImperativeHandle, useRef } from "react";

import type { Fault } from "@/api/types";
import { suggest, type Vocabulary } from "./completion";
import { spanOf } from "./positions";

export interface YamlEditorHandle {
  /** Moves the cursor to the place of a fault. */
  jumpTo(fault: Fault): void;
}

interface YamlEditorProps {
  value: string;
  onChange: (value: string) => void;
  faults: readonly Fault[];
  vocabulary: Vocabulary;
  label: string;
  handle?: Ref<YamlEditorHandle>;
}

const highlighting = HighlightStyle.define([
  { tag: [tags.propertyName, tags.definition(tags.propertyName)], color: "var(--accent)", fontWeight: "500" },
  { tag: [tags.string, tags.content], color: "var(--text)" },
  { tag: [tags.number, tags.bool, tags.null, tags.keyword], color: "var(--state-running)" },
  { tag: tags.comment, color: "var(--muted)", fontStyle: "italic" },
  { tag: [tags.punctuation, tags.separator, tags.squareBracket, tags.brace], color: "var(--muted)" },
]);

const look = EditorView.theme({
  "&": { fontSize: "13px", backgroundColor: "var(--surface)", color: "var(--text)" },
  "&.cm-focused": { outline: "2px solid var(--accent)", outlineOffset: "-1px" },
  ".cm-scroller": {
    fontFamily: "var(--mono)",
    fontVariantLigatures: "none",
    lineHeight: "1.6",
    minHeight: "320px",
    maxHeight: "62vh",
  },
  ".cm-content": { caretColor: "var(--text)" },
  ".cm-cursor": { borderLeftColor: "var(--text)" },
  ".cm-gutters": {
    backgroundColor: "var(--surface-sunken)",
    color: "var(--muted)",
    borderColor: "var(--line)",
  },
  ".cm-activeLine, .cm-activeLineGutter": { backgroundColor: "var(--surface-sunken)" },
  "&.cm-focused > .cm-scroller > .cm-selectionLayer .cm-selectionBackground, .cm-selectionBackground": {
    backgroundColor: "var(--accent-soft)",
  },
  ".cm-tooltip": {
    backgroundColor: "var(--surface)",
    border: "1px solid var(--line)",
    borderRadius: "6px",
    color: "var(--text)",
  },
  ".cm-tooltip-autocomplete > ul > li[aria-selected]": {
    backgroundColor: "var(--accent-soft)",
    color: "var(--text)",
  },
  ".cm-completionDetail": { color: "var(--muted)", fontStyle: "normal", marginLeft: "1em" },
  ".cm-diagnostic": { borderLeftColor: "var(--state-failed)" },
});

/** A YAML editor with the server's faults in place. `Escape` then `Tab` leaves it by keyboard. */
export function YamlEditor({ value, onChange, faults, vocabulary, label, handle }: YamlEditorProps) {
  const host = useRef<HTMLDivElement>(null);
  const view = useRef<EditorView | null>(null);
  const words = useRef(vocabulary);
  const report = useRef(onChange);
  words.current = vocabulary;
  report.current = onChange;

  useEffect(() => {
    if (!host.current) return;
    const editor = new EditorView({ parent: host.current, state: createState(label, words, report) });
    view.current = editor;
    return () => {
      view.current = null;
      editor.destroy();
    };
  }, [label]);

  useEffect(() => {
    const editor = view.current;
    if (!editor || editor.state.doc.toString() === value) return;
    editor.dispatch({ changes: { from: 0, to: editor.state.doc.length, insert: value } });
  }, [value]);

  useEffect(() => {
    const editor = view.current;
    if (editor)
      editor.dispatch(setDiagnostics(editor.state, toDiagnostics(editor.state.doc.toString(), faults)));
  }, [faults]);

  useImperativeHandle(handle, () => ({
    jumpTo(fault) {
      const editor = view.current;
      if (!editor) return;
      const { from, to } = spanOf(editor.state.doc.toString(), fault.location);
      editor.dispatch({ selection: { anchor: from, head: to }, scrollIntoView: true });
      editor.focus();
    },
  }));

  return <div ref={host} data-editor="yaml" />;
}

function toDiagnostics(text: string, faults: readonly Fault[]): Diagnostic[] {
  return faults.map((fault) => ({
    ...spanOf(text, fault.location),
    severity: "error",
    message: fault.hint ? `${fault.message} (${fault.hint})` : fault.message,
    source: fault.code,
  }));
}

function createState(
  label: string,
  words: { current: Vocabulary },
  report: { current: (value: string) => void },
): EditorState {
  const complete = (context: CompletionContext) => {
    const found = suggest(context.state.doc.toString(), context.pos, words.current);
    const typed = context.matchBefore(/[\w.@-]+/);
    if (!found || (!context.explicit && !typed)) return null;
    return {
      from: found.from,
      options: found.options.map(({ label: name, insert, detail, kind }) => ({
        label: name,
        apply: insert ?? name,
        detail,
        type: kind === "key" ? "property" : kind === "operator" ? "function" : "variable",
      })),
    };
  };
  return EditorState.create({
    doc: "",
    extensions: [
      lineNumbers(),
      history(),
      drawSelection(),
      indentOnInput(),
      bracketMatching(),
      highlightActiveLine(),
      EditorState.tabSize.of(2),
      yaml(),
      syntaxHighlighting(highlighting),
      autocompletion({ override: [complete], icons: false }),
      lintGutter(),
      keymap.of([...completionKeymap, ...defaultKeymap, ...historyKeymap, indentWithTab]),
      EditorView.lineWrapping,
      EditorView.contentAttributes.of({ "aria-label": label, spellcheck: "false", tabindex: "0" }),
      EditorView.updateListener.of((update) => {
        if (update.docChanged) report.current(update.state.doc.toString());
      }),
      look,
    ],
  });
}
