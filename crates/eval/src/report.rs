//! Results as a table for people and as JSON for programs.

use serde_json::{Map, Value, json};

use crate::share::{Estimate, Share};

/// What an evaluation found.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Which evaluation.
    pub name: &'static str,
    /// What was asked, by option: with the model, all that the results follow from.
    pub asked: Map<String, Value>,
    /// The results.
    pub rows: Vec<Row>,
    /// How people see them.
    pub layout: Layout,
}

/// How rows become a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// A line per row.
    Lines,
    /// A row is one place of a grid: the line and the column that two of its fields name hold a third.
    Grid {
        /// The field that names the line.
        line: &'static str,
        /// The field that names the column.
        column: &'static str,
        /// The field that is shown.
        shown: &'static str,
    },
}

/// One result: named fields, in order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    fields: Vec<(&'static str, Cell)>,
}

/// One field of a result.
#[derive(Clone, Debug, PartialEq)]
pub enum Cell {
    /// A name.
    Text(String),
    /// How many.
    Count(u64),
    /// A number, and how many digits behind the point people see. What is not finite is `null` in JSON and a dash here.
    Number(f64, usize),
    /// How many of so many.
    Share(Share),
    /// A mean with its interval.
    Estimate(Estimate),
    /// A mean, the least and the most. People see the ends in square brackets, those of 95 % intervals in round ones.
    Spread([f64; 3]),
    /// How many of each: in JSON only.
    Counts(Vec<u64>),
}

impl Row {
    /// A row without fields.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The row with one more field.
    #[must_use]
    pub fn with(mut self, name: &'static str, cell: Cell) -> Self {
        self.fields.push((name, cell));
        self
    }

    /// The row with one more name.
    #[must_use]
    pub fn named(self, name: &'static str, text: impl Into<String>) -> Self {
        self.with(name, Cell::Text(text.into()))
    }

    /// The field of this name.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Cell> {
        self.fields.iter().find(|(field, _)| *field == name).map(|(_, cell)| cell)
    }

    fn shown(&self, name: &str) -> String {
        self.get(name).map_or_else(String::new, Cell::text)
    }
}

impl Report {
    /// One document; `model` says what was measured and how it was computed.
    #[must_use]
    pub fn to_json(&self, model: &Value) -> Value {
        let row = |row: &Row| -> Value {
            row.fields.iter().map(|(name, cell)| (name.replace(' ', "_"), cell.json())).collect()
        };
        let results: Vec<Value> = self.rows.iter().map(row).collect();
        json!({ "eval": self.name, "model": model, "asked": self.asked, "results": results })
    }

    /// The table.
    #[must_use]
    pub fn to_text(&self) -> String {
        match self.layout {
            Layout::Lines => aligned(&self.lines()),
            Layout::Grid { line, column, shown } => aligned(&self.grid(line, column, shown)),
        }
    }

    fn lines(&self) -> Vec<Vec<String>> {
        let mut names: Vec<&'static str> = Vec::new();
        for (name, cell) in self.rows.iter().flat_map(|row| &row.fields) {
            if !names.contains(name) && !matches!(cell, Cell::Counts(_)) {
                names.push(name);
            }
        }
        let head = names.iter().map(|&name| name.to_owned()).collect();
        let line = |row: &Row| names.iter().map(|name| row.shown(name)).collect();
        std::iter::once(head).chain(self.rows.iter().map(line)).collect()
    }

    fn grid(&self, line: &str, column: &str, shown: &str) -> Vec<Vec<String>> {
        let distinct = |field: &str| {
            let mut values: Vec<String> = Vec::new();
            for value in self.rows.iter().map(|row| row.shown(field)) {
                if !values.contains(&value) {
                    values.push(value);
                }
            }
            values
        };
        let columns = distinct(column);
        let mut table = vec![std::iter::once(format!("{line} \\ {column}")).chain(columns.clone()).collect()];
        for name in distinct(line) {
            let place = |at: &String| {
                let found = self.rows.iter().find(|row| row.shown(line) == name && row.shown(column) == *at);
                found.map_or_else(String::new, |row| row.shown(shown))
            };
            table.push(std::iter::once(name.clone()).chain(columns.iter().map(place)).collect());
        }
        table
    }
}

impl Cell {
    fn text(&self) -> String {
        match self {
            Self::Text(text) => text.clone(),
            Self::Count(count) => count.to_string(),
            Self::Number(value, digits) => number(*value, *digits),
            Self::Share(share) => {
                let [low, high] = share.interval().map(|end| 100.0 * end);
                match share.value() {
                    Some(value) => {
                        let Share { count, of } = share;
                        format!("{count}/{of} {:.1} % ({low:.1}-{high:.1})", 100.0 * value)
                    }
                    None => "-".to_owned(),
                }
            }
            Self::Estimate(Estimate { value, interval }) => match interval {
                Some([low, high]) => format!("{} ({low:.3}-{high:.3})", number(*value, 3)),
                None => number(*value, 3),
            },
            Self::Spread([mean, least, most]) => {
                format!("{} [{}, {}]", number(*mean, 3), number(*least, 3), number(*most, 3))
            }
            Self::Counts(_) => String::new(),
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Text(text) => json!(text),
            Self::Count(count) => json!(count),
            // Not finite is null.
            Self::Number(value, _) => json!(value),
            Self::Share(share) => json!({
                "count": share.count, "of": share.of, "share": share.value(), "interval": share.interval(),
            }),
            Self::Estimate(Estimate { value, interval }) => json!({ "value": value, "interval": interval }),
            Self::Spread([mean, least, most]) => json!({ "mean": mean, "least": least, "most": most }),
            Self::Counts(counts) => json!(counts),
        }
    }
}

fn number(value: f64, digits: usize) -> String {
    if value.is_finite() { format!("{value:.digits$}") } else { "-".to_owned() }
}

/// Columns of equal width, two spaces between them; the first to the left, the others to the right.
fn aligned(table: &[Vec<String>]) -> String {
    let n_columns = table.first().map_or(0, Vec::len);
    let width = |column: usize| table.iter().map(|line| line[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..n_columns).map(width).collect();
    let mut text = String::new();
    for line in table {
        let cells = line.iter().zip(&widths).enumerate().map(|(column, (cell, &width))| match column {
            0 => format!("{cell:<width$}"),
            _ => format!("{cell:>width$}"),
        });
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(layout: Layout) -> Report {
        let row = |length: u64, depth: &str, count: u64| {
            Row::new()
                .with("length", Cell::Count(length))
                .named("depth", depth)
                .with("right", Cell::Share(Share { count, of: 4 }))
                .with("all loads", Cell::Counts(vec![1, 2]))
        };
        let rows = vec![row(8, "0", 4), row(8, "50", 2), row(1024, "0", 0)];
        Report { name: "needle", asked: Map::new(), rows, layout }
    }

    #[test]
    fn a_table_has_a_line_per_row_and_a_column_per_field_that_people_see() {
        let want = "length  depth                     right
8           0  4/4 100.0 % (51.0-100.0)
8          50    2/4 50.0 % (15.0-85.0)
1024        0      0/4 0.0 % (0.0-49.0)
";
        assert_eq!(report(Layout::Lines).to_text(), want);
    }

    #[test]
    fn a_grid_has_a_place_for_every_pair_and_leaves_missing_ones_empty() {
        let layout = Layout::Grid { line: "length", column: "depth", shown: "right" };
        let want = r"length \ depth                         0                      50
8               4/4 100.0 % (51.0-100.0)  2/4 50.0 % (15.0-85.0)
1024                0/4 0.0 % (0.0-49.0)
";
        assert_eq!(report(layout).to_text(), want);
    }

    #[test]
    fn json_has_every_field_with_counts_share_and_interval() {
        let document = report(Layout::Lines).to_json(&json!({ "name": "calf" }));
        assert_eq!(document["model"]["name"], "calf");
        let first = &document["results"][0];
        assert_eq!((first["length"].as_u64(), first["right"]["count"].as_u64()), (Some(8), Some(4)));
        assert_eq!(first["right"]["share"].as_f64(), Some(1.0));
        assert_eq!(first["right"]["interval"].as_array().map(Vec::len), Some(2));
        assert_eq!(first["all_loads"], json!([1, 2]));
    }

    #[test]
    fn what_is_not_finite_is_null_and_a_dash() {
        let cell = Cell::Number(f64::NAN, 2);
        assert_eq!((cell.text().as_str(), cell.json()), ("-", Value::Null));
        let nothing = Cell::Share(Share::default());
        assert_eq!((nothing.text().as_str(), &nothing.json()["share"]), ("-", &Value::Null));
    }
}
