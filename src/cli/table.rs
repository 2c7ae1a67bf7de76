//! Tables and paragraphs that fit the terminal. Away from a terminal nothing is cut or wrapped.

use std::io::IsTerminal;

use crate::names::shown;

/// Width of a terminal that does not tell its own.
const USUAL: usize = 80;
/// Characters that are left of the first column at least.
const LEAST: usize = 12;
const GAP: &str = "  ";

/// The width of the terminal that stdout is; `None` if it is none.
pub(crate) fn width() -> Option<usize> {
    let found = || terminal_size::terminal_size_of(std::io::stdout()).map(|(width, _)| usize::from(width.0));
    std::io::stdout().is_terminal().then(|| found().filter(|width| *width > 0).unwrap_or(USUAL))
}

/// A column of a table.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Column {
    title: &'static str,
    /// True for numbers.
    right: bool,
    /// True if it is left out where the table is too wide.
    optional: bool,
}

impl Column {
    /// A column of text.
    pub(crate) const fn text(title: &'static str) -> Column {
        Column { title, right: false, optional: false }
    }

    /// A column of numbers.
    pub(crate) const fn number(title: &'static str) -> Column {
        Column { title, right: true, optional: false }
    }

    /// The same column, left out where the table is too wide.
    pub(crate) const fn optional(self) -> Column {
        Column { optional: true, ..self }
    }
}

/// A table with a line of titles. Where it is wider than `width`, it loses its optional columns, then the beginnings of the
/// texts in its first column. Each row has a cell for each column.
pub(crate) fn table(columns: &[Column], rows: &[Vec<String>], width: Option<usize>) -> String {
    let cells: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| shown(cell).into_owned()).collect()).collect();
    let mut widths: Vec<usize> = (0..columns.len()).map(|at| widest(columns[at].title, &cells, at)).collect();
    let mut kept: Vec<usize> = (0..columns.len()).filter(|at| widths[*at] > 0).collect();
    let total = |kept: &[usize], widths: &[usize]| {
        kept.iter().map(|at| widths[*at] + GAP.len()).sum::<usize>().saturating_sub(GAP.len())
    };
    if let Some(limit) = width {
        if total(&kept, &widths) > limit {
            kept.retain(|at| !columns[*at].optional);
        }
        let excess = total(&kept, &widths).saturating_sub(limit);
        widths[0] = widths[0].saturating_sub(excess).max(LEAST.min(widths[0]));
    }
    let titles: Vec<String> = columns.iter().map(|column| column.title.to_owned()).collect();
    let line = |row: &Vec<String>| {
        let cell = |at: &usize| padded(&row[*at], widths[*at], columns[*at].right);
        let line = kept.iter().map(cell).collect::<Vec<_>>().join(GAP);
        format!("{}\n", line.trim_end())
    };
    std::iter::once(&titles).chain(&cells).map(line).collect()
}

/// The width of a column; 0 if all its cells are empty.
fn widest(title: &str, rows: &[Vec<String>], at: usize) -> usize {
    let widest = rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    if widest == 0 { 0 } else { widest.max(title.chars().count()) }
}

fn padded(cell: &str, width: usize, right: bool) -> String {
    let cell = without_beginning(cell, width);
    if right { format!("{cell:>width$}") } else { format!("{cell:width$}") }
}

fn without_beginning(text: &str, longest: usize) -> String {
    let length = text.chars().count();
    if length <= longest {
        return text.to_owned();
    }
    let end: String = text.chars().skip(length + 1 - longest).collect();
    format!("…{end}")
}

/// A paragraph that begins with a label, its lines within `width`, those after the first below the first's text.
pub(crate) fn labelled(label: &str, label_width: usize, text: &str, width: Option<usize>) -> String {
    let room = width.map_or(usize::MAX, |width| width.saturating_sub(label_width).max(LEAST));
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last_mut().expect("there is a first line");
        let needed = line.chars().count() + 1 + word.chars().count();
        if line.is_empty() || needed <= room {
            *line = if line.is_empty() { word.to_owned() } else { format!("{line} {word}") };
        } else {
            lines.push(word.to_owned());
        }
    }
    let labels = std::iter::once(label).chain(std::iter::repeat(""));
    lines.iter().zip(labels).map(|(line, label)| format!("{label:label_width$}{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const COLUMNS: [Column; 3] =
        [Column::text("tensor"), Column::number("bytes").optional(), Column::number("bits")];

    fn rows() -> Vec<Vec<String>> {
        let row = |cells: [&str; 3]| cells.map(str::to_owned).to_vec();
        vec![row(["model.layers.{0..29}.down_proj", "1024", "4.13"]), row(["lm_head", "7", "16.00"])]
    }

    #[test]
    fn columns_are_aligned_and_whole_where_there_is_room() {
        let expected = "tensor                          bytes   bits\n\
                        model.layers.{0..29}.down_proj   1024   4.13\n\
                        lm_head                             7  16.00\n";
        assert_eq!(table(&COLUMNS, &rows(), None), expected);
        assert_eq!(table(&COLUMNS, &rows(), Some(44)), expected);
    }

    #[test]
    fn a_narrow_table_loses_columns_then_beginnings() {
        let expected = "tensor                           bits\n\
                        model.layers.{0..29}.down_proj   4.13\n\
                        lm_head                         16.00\n";
        assert_eq!(table(&COLUMNS, &rows(), Some(43)), expected);
        let narrow = table(&COLUMNS, &rows(), Some(24));
        assert_eq!(narrow.lines().nth(1), Some("…0..29}.down_proj   4.13"), "{narrow}");
        assert!(narrow.lines().all(|line| line.chars().count() <= 24), "{narrow}");
    }

    #[test]
    fn an_empty_column_is_left_out() {
        let rows = vec![vec!["a".to_owned(), String::new(), "4".to_owned()]];
        assert_eq!(table(&COLUMNS, &rows, None), "tensor  bits\na          4\n");
    }

    #[test]
    fn paragraphs_hang_below_their_label() {
        assert_eq!(labelled("why", 5, "one two three", Some(13)), "why  one two\n     three\n");
        assert_eq!(labelled("why", 5, "one two three", None), "why  one two three\n");
    }
}
