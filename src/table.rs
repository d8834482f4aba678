//! Tables that fit what they are shown on. Cells hold words of others, so each is cleaned here, and cut where there is no room.

use rustix::termios::tcgetwinsize;

use crate::terminal::has_colour;

/// Columns of a table whose width nothing else says; on a wider terminal it may be as wide as that.
const WIDTH: usize = 80;
/// Columns that a column that gives way keeps.
const NARROWEST: usize = 12;
/// Columns of a cell that does not give way.
const CELL_MAX: usize = 24;

/// What is written on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Paper {
    /// How wide it is.
    pub(crate) columns: usize,
    /// Whether it has colours.
    pub(crate) has_colour: bool,
}

impl Paper {
    /// Without a terminal.
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { columns: WIDTH, has_colour: false };

    /// Standard output.
    pub(crate) fn stdout() -> Self {
        Self { columns: columns().unwrap_or(WIDTH), has_colour: has_colour() }
    }

    /// Standard output; where that is no terminal, as wide as it has to be, since programs read it.
    pub(crate) fn whole() -> Self {
        Self { columns: columns().unwrap_or(usize::MAX), has_colour: has_colour() }
    }

    /// `text`, clean, in the colour of `look`.
    pub(crate) fn paint(self, text: &str, look: Look) -> String {
        let text = text::clean_lines(text);
        let colour = match look {
            _ if !self.has_colour => return text.into_owned(),
            Look::Plain => return text.into_owned(),
            Look::Warning => 33,
            Look::Wrong => 31,
        };
        format!("\x1b[{colour}m{text}\x1b[0m")
    }
}

/// How wide a terminal is.
fn columns() -> Option<usize> {
    let size = tcgetwinsize(rustix::stdio::stdout()).ok()?;
    Some(usize::from(size.ws_col).max(WIDTH))
}

/// What a text tells at a glance; colour is for what is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Look {
    /// Nothing.
    Plain,
    /// Needs a look.
    Warning,
    /// Does not do what it is for.
    Wrong,
}

/// A text in a table.
#[derive(Debug)]
pub(crate) struct Cell {
    text: String,
    look: Look,
}

impl Cell {
    /// In the colour of `look`.
    pub(crate) fn new(text: impl Into<String>, look: Look) -> Self {
        Self { text: text.into(), look }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text, Look::Plain)
    }
}

/// How a column is laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Column {
    /// Words.
    Left(&'static str),
    /// Numbers.
    Right(&'static str),
    /// Words that give way where the table would be too wide: one such column a table.
    Yielding(&'static str),
    /// Words that are whole, however long: the last column.
    Open(&'static str),
}

impl Column {
    fn title(self) -> &'static str {
        match self {
            Self::Left(title) | Self::Right(title) | Self::Yielding(title) | Self::Open(title) => title,
        }
    }
}

/// Titles and rows.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    columns: [Column; N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    /// Without rows.
    pub(crate) fn new(columns: [Column; N]) -> Self {
        Self { columns, rows: Vec::new() }
    }

    /// One row more.
    pub(crate) fn row(&mut self, cells: [Cell; N]) {
        self.rows.push(cells);
    }

    /// Lines of `paper`, one column apart, each with its line break.
    pub(crate) fn render(&self, paper: Paper) -> String {
        self.below(paper, [0; N], true).0
    }

    /// The same below a table whose columns are as wide as `least` says, with titles if it `is_first`; and how wide its columns are.
    pub(crate) fn below(&self, paper: Paper, least: [usize; N], is_first: bool) -> (String, [usize; N]) {
        let titles = self.columns.map(|column| Cell::from(column.title()));
        let rows: Vec<&[Cell; N]> = std::iter::once(&titles).chain(&self.rows).collect();
        let mut widths = least;
        for (index, width) in widths.iter_mut().enumerate() {
            let natural =
                rows.iter().filter_map(|row| Some(text::width(&text::clean(&row.get(index)?.text))));
            *width = natural.max().unwrap_or(0).max(*width);
        }
        let is_yielding = |column: &Column| matches!(column, Column::Yielding(_));
        let is_fixed = |column: &Column| matches!(column, Column::Left(_) | Column::Right(_));
        for (width, _) in widths.iter_mut().zip(self.columns).filter(|(_, column)| is_fixed(column)) {
            *width = (*width).min(CELL_MAX);
        }
        if let Some(yielding) = self.columns.iter().position(is_yielding) {
            let others: usize =
                widths.iter().enumerate().filter(|(i, _)| *i != yielding).map(|(_, w)| w + 1).sum();
            let room = paper.columns.saturating_sub(others).max(NARROWEST);
            widths.iter_mut().skip(yielding).take(1).for_each(|width| *width = (*width).min(room));
        }
        let shown = rows.into_iter().skip(usize::from(!is_first));
        (shown.map(|row| self.line(row, &widths, paper)).collect(), widths)
    }

    fn line(&self, row: &[Cell; N], widths: &[usize; N], paper: Paper) -> String {
        let mut line = String::new();
        let mut gap = 0;
        for ((cell, column), width) in row.iter().zip(self.columns).zip(widths) {
            let shown = text::fit(&cell.text, *width);
            if shown.is_empty() {
                gap += width + 1;
                continue;
            }
            let free = width.saturating_sub(text::width(&shown));
            let (before, after) = if matches!(column, Column::Right(_)) { (free, 0) } else { (0, free) };
            // Nothing stands behind the last word of a line.
            line.extend(std::iter::repeat_n(' ', gap + before));
            line.push_str(&paper.paint(&shown, cell.look));
            gap = after + 1;
        }
        line + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(name: &str) -> Table<3> {
        let mut table = Table::new([Column::Yielding("NAME"), Column::Left("STATE"), Column::Right("N")]);
        table.row(["a".into(), "running".into(), "1".into()]);
        table.row([name.into(), Cell::new("failed", Look::Wrong), "10".into()]);
        table
    }

    #[test]
    fn numbers_stand_under_each_other_and_no_line_ends_with_spaces() {
        assert_eq!(table("b").render(Paper::PLAIN), "NAME STATE    N\na    running  1\nb    failed  10\n");
    }

    #[test]
    fn a_name_of_any_length_and_kind_leaves_the_table_as_wide_as_its_paper() {
        for name in ["x".repeat(250), "直".repeat(125), "\u{202e}\u{2028}\u{1b}[2J".repeat(40)] {
            let text = table(&name).render(Paper::PLAIN);
            assert_eq!(text.lines().count(), 3, "{text}");
            assert!(text.lines().all(|line| text::width(line) <= 80), "{text}");
            assert_eq!(text::clean_lines(&text), text);
            let wide = Paper { columns: 300, has_colour: false };
            assert!(table(&name).render(wide).lines().any(|line| text::width(line) > 200));
        }
    }

    #[test]
    fn what_is_wrong_has_a_colour_and_its_neighbours_do_not_move() {
        let paper = Paper { has_colour: true, ..Paper::PLAIN };
        assert_eq!(
            table("b").render(paper),
            "NAME STATE    N\na    running  1\nb    \x1b[31mfailed\x1b[0m  10\n"
        );
    }
}
