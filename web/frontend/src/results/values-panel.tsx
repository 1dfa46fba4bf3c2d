import { formatMetric } from "@/ui/format";
import { KeyValues } from "@/ui/key-values";
import { Panel } from "@/ui/page";
import { ScrollBox } from "@/ui/scroll-box";
import table from "@/ui/table.module.css";
import { ValueView } from "@/ui/value-view";
import classes from "./results.module.css";
import type { NumberTable, RunValues } from "./run-values";

/** What a run hands back that is no file: numbers side by side, the rest as it is. */
export function ValuesPanel({ values }: { values: RunValues }) {
  return (
    <Panel title="Values" flush>
      <div data-values="ready">
        {values.tables.map((one) => (
          <NumberRows key={one.columns.join()} numbers={one} />
        ))}
        {values.others.length > 0 && (
          <div className={classes.figures}>
            <KeyValues rows={values.others.map(([name, value]) => [name, <ValueView value={value} />])} />
          </div>
        )}
      </div>
    </Panel>
  );
}

function NumberRows({ numbers }: { numbers: NumberTable }) {
  return (
    <ScrollBox>
      <table className={table.table}>
        <thead>
          <tr>
            <th scope="col">Output</th>
            {numbers.columns.map((column) => (
              <th key={column} scope="col" className={table.number}>
                {column}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {numbers.rows.map(({ name, numbers: cells }) => (
            <tr key={name} data-output={name}>
              <th scope="row" className="mono">
                {name}
              </th>
              {cells.map((cell, index) => (
                <td key={index} className={table.number}>
                  {formatMetric(numbers.columns[index] ?? "", cell)}
                </td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </ScrollBox>
  );
}
