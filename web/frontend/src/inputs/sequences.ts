/** A first look at a sequence file before it is used: what it holds and what looks wrong. The server decides. */

export interface SequenceReport {
  /** One line: "1,123 sequences, 191 columns". */
  summary: string;
  /** At most a few, each with line and column. */
  warnings: string[];
}

interface Row {
  name: string;
  line: number;
  /** Letters in all. */
  letters: number;
  /** Letters and gaps that are columns of an alignment: lower case marks insertions in A3M. */
  columns: number;
}

const MOST_WARNINGS = 5;
const ALLOWED = /[A-Za-z.\-~]/;

/** Looks at FASTA or A3M; other formats are recognised by their first line and not read further. */
export function inspectSequences(text: string, type: string): SequenceReport {
  const start = text.trimStart();
  if (start === "") return { summary: "The file is empty.", warnings: ["There is nothing in this file."] };
  if (start.startsWith("# STOCKHOLM")) return { summary: "A Stockholm alignment.", warnings: [] };
  if (/^(CLUSTAL|MUSCLE)/.test(start)) return { summary: "A Clustal alignment.", warnings: [] };
  if (!start.startsWith(">")) {
    return {
      summary: "No known sequence format.",
      warnings: [
        "line 1: FASTA and A3M start with '>', Stockholm with '# STOCKHOLM', Clustal with 'CLUSTAL'.",
      ],
    };
  }
  const { rows, warnings } = readRows(text);
  if (type === "alignment") warnings.push(...unequalRows(rows));
  return { summary: summarise(rows, type), warnings: warnings.slice(0, MOST_WARNINGS) };
}

function readRows(text: string): { rows: Row[]; warnings: string[] } {
  const rows: Row[] = [];
  const warnings: string[] = [];
  let row: Row | null = null;
  text.split(/\r\n|\r|\n/).forEach((line, index) => {
    if (line.startsWith(">")) {
      row = {
        name: line.slice(1).trim().split(/\s/, 1)[0] || `row ${rows.length + 1}`,
        line: index + 1,
        letters: 0,
        columns: 0,
      };
      rows.push(row);
      return;
    }
    if (row === null || line.startsWith(";") || line.startsWith("#")) return;
    countLetters(line, index + 1, row, warnings);
  });
  for (const { name, line, letters, columns } of rows) {
    if (letters === 0 && columns === 0) warnings.push(`line ${line}: ${name} has no sequence.`);
  }
  return { rows, warnings };
}

function countLetters(line: string, number: number, row: Row, warnings: string[]): void {
  for (let column = 0; column < line.length; column += 1) {
    const letter = line[column] as string;
    if (letter === " " || letter === "\t") continue;
    if (!ALLOWED.test(letter) && warnings.length < MOST_WARNINGS) {
      const what = letter === "*" ? "'*' marks a stop codon and is no residue" : `'${letter}' is no residue`;
      warnings.push(`line ${number}, column ${column + 1}: ${what} (${row.name}).`);
    }
    if (/[A-Za-z]/.test(letter)) row.letters += 1;
    if (/[A-Z\-~]/.test(letter)) row.columns += 1;
  }
}

function unequalRows(rows: Row[]): string[] {
  const first = rows[0];
  const other = first && rows.find((row) => row.columns !== first.columns);
  if (!first || !other) return [];
  return [
    `line ${other.line}: ${other.name} has ${other.columns} columns, the first row has ${first.columns}.`,
  ];
}

function summarise(rows: Row[], type: string): string {
  const counted = `${rows.length.toLocaleString("en")} sequence${rows.length === 1 ? "" : "s"}`;
  if (type === "alignment") return `${counted}, ${(rows[0]?.columns ?? 0).toLocaleString("en")} columns.`;
  const lengths = rows.map((row) => row.letters);
  const shortest = lengths.reduce((low, length) => Math.min(low, length), Infinity);
  const longest = lengths.reduce((high, length) => Math.max(high, length), 0);
  return shortest === longest
    ? `${counted}, ${longest.toLocaleString("en")} residues.`
    : `${counted}, ${shortest.toLocaleString("en")} to ${longest.toLocaleString("en")} residues.`;
}
