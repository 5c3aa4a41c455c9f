//! Columns of text without borders: two spaces apart, so that `awk` and eyes both find them.

/// Which side of a column its text stands on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Align {
    Left,
    Right,
}

/// Rows under a heading.
#[derive(Debug)]
pub(super) struct Table {
    columns: Vec<(&'static str, Align)>,
    rows: Vec<Vec<String>>,
}

/// Words that carry a meaning, with the colour of it.
const COLORS: [(&str, anstyle::AnsiColor); 7] = [
    ("healthy", anstyle::AnsiColor::Green),
    ("unhealthy", anstyle::AnsiColor::Red),
    ("critical", anstyle::AnsiColor::Red),
    ("degraded", anstyle::AnsiColor::Yellow),
    ("unknown", anstyle::AnsiColor::Yellow),
    ("disabled", anstyle::AnsiColor::BrightBlack),
    ("FALLBACK", anstyle::AnsiColor::Red),
];

impl Table {
    pub fn new(columns: &[(&'static str, Align)]) -> Self {
        Self {
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    /// Adds a row with one cell for each column.
    pub fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().collect());
    }

    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The text, with colours if `color`.
    pub fn render(&self, color: bool) -> String {
        let width = |text: &str| text.chars().count();
        let widths: Vec<usize> = self
            .columns
            .iter()
            .enumerate()
            .map(|(index, (heading, _))| {
                let cells = self
                    .rows
                    .iter()
                    .filter_map(|row| row.get(index))
                    .map(|cell| width(cell));
                cells.chain([width(heading)]).max().unwrap_or_default()
            })
            .collect();
        let headings: Vec<String> = self
            .columns
            .iter()
            .map(|(heading, _)| (*heading).to_owned())
            .collect();
        let mut text = String::new();
        for row in std::iter::once(&headings).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, (_, align)), full) in row.iter().zip(&self.columns).zip(&widths) {
                let padding = " ".repeat(full.saturating_sub(width(cell)));
                let painted = if color { paint(cell) } else { cell.clone() };
                line.push_str(&match align {
                    Align::Left => format!("{painted}{padding}"),
                    Align::Right => format!("{padding}{painted}"),
                });
                line.push_str("  ");
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// The cell with its meaningful words coloured; words are split at spaces only.
fn paint(cell: &str) -> String {
    let painted = cell
        .split(' ')
        .map(|word| match COLORS.iter().find(|(known, _)| *known == word) {
            Some((_, color)) => {
                let style = anstyle::Style::new().fg_color(Some((*color).into()));
                format!("{style}{word}{style:#}")
            }
            None => word.to_owned(),
        });
    painted.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_lines_end_with_text() {
        let mut table = Table::new(&[
            ("NAME", Align::Left),
            ("N", Align::Right),
            ("HEALTH", Align::Left),
        ]);
        table.row(["a".to_owned(), "1".to_owned(), "healthy".to_owned()]);
        table.row(["longer".to_owned(), "200".to_owned(), String::new()]);
        assert_eq!(
            table.render(false),
            "NAME      N  HEALTH\na         1  healthy\nlonger  200\n"
        );
        assert!(table.render(true).contains("\u{1b}[32mhealthy\u{1b}[0m"));
    }
}
