//! What is wrong with a file, for a person: where, the line, what was expected, what to do.

use std::fmt::Write as _;
use std::path::Path;

/// Most errors shown at once: more would scroll the first ones away.
const MAX_SHOWN: usize = 20;
/// Longest piece of a line that is shown, columns.
const MAX_LINE: usize = 110;
/// Columns kept in front of what is marked in a longer line.
const LEAD: usize = 50;
/// Longest piece of a value that a message repeats, characters.
const MAX_QUOTED: usize = 60;

/// A piece of one line of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mark {
    /// From 1.
    pub(super) line: usize,
    /// From 1, characters.
    pub(super) column: usize,
    /// Characters; may reach beyond the line.
    pub(super) width: usize,
}

impl Mark {
    /// Where a file without any content is wrong.
    pub(super) const START: Self = Self { line: 1, column: 1, width: 1 };

    /// The first character after `text`.
    pub(super) fn after(text: &str) -> Self {
        let last = lines(text).last().unwrap_or_default();
        Self { line: lines(text).count(), column: last.chars().count() + 1, width: 1 }
    }
}

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Diagnostic {
    mark: Mark,
    message: String,
    related: Option<(String, Mark)>,
    cause: Option<String>,
    help: Option<String>,
}

impl Diagnostic {
    /// `message` is one line, about what stands at `mark`.
    pub(super) fn new(mark: Mark, message: impl Into<String>) -> Self {
        Self { mark, message: message.into(), related: None, cause: None, help: None }
    }

    /// Another place that explains this one.
    pub(super) fn related(mut self, label: impl Into<String>, mark: Mark) -> Self {
        self.related = Some((label.into(), mark));
        self
    }

    /// The system's own words.
    pub(super) fn cause(mut self, cause: impl std::fmt::Display) -> Self {
        self.cause = Some(clean(&cause.to_string()));
        self
    }

    /// What to do.
    pub(super) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }
}

/// The message for all of `found` in the file at `path`, in the order of its lines.
pub(super) fn render(path: &Path, text: &str, found: &[Diagnostic]) -> String {
    let name = clean(&path.to_string_lossy());
    let mut found: Vec<_> = found.iter().collect();
    found.sort_by_key(|d| (d.mark.line, d.mark.column));
    let mut out = String::new();
    for d in found.iter().take(MAX_SHOWN) {
        if !out.is_empty() {
            out.push_str("\n\n");
        }
        let _ = write!(out, "{name}:{}:{}: {}", d.mark.line, d.mark.column, d.message);
        let widest = d.related.iter().map(|(_, m)| m.line).fold(d.mark.line, usize::max);
        let gutter = widest.to_string().len();
        snippet(&mut out, text, d.mark, gutter);
        if let Some((label, mark)) = &d.related {
            let _ = write!(out, "\n{:gutter$} = {label}, {name}:{}:{}:", "", mark.line, mark.column);
            snippet(&mut out, text, *mark, gutter);
        }
        if let Some(cause) = &d.cause {
            let _ = write!(out, "\n{:gutter$} = cause: {cause}", "");
        }
        if let Some(help) = &d.help {
            let _ = write!(out, "\n{:gutter$} = help: {help}", "");
        }
    }
    if found.len() > MAX_SHOWN {
        let _ = write!(out, "\n\n{name}: {} more errors are not shown", found.len() - MAX_SHOWN);
    }
    out
}

/// `text` in quotes, cut to a length for messages, nothing in it that could act on a terminal.
pub(super) fn quoted(text: &str) -> String {
    let mut cut: String = text.chars().take(MAX_QUOTED).collect();
    if cut.len() < text.len() {
        cut.push('…');
    }
    format!("{cut:?}")
}

/// `text` with nothing in it that could act on a terminal.
pub(super) fn clean(text: &str) -> String {
    text.chars().map(printable).collect()
}

/// The characters that `mark` covers, within its line.
pub(super) fn slice(text: &str, mark: Mark) -> String {
    let line = lines(text).nth(mark.line.saturating_sub(1)).unwrap_or_default();
    line.chars().skip(mark.column.saturating_sub(1)).take(mark.width).collect()
}

fn snippet(out: &mut String, text: &str, mark: Mark, gutter: usize) {
    let Some(line) = lines(text).nth(mark.line.saturating_sub(1)) else { return };
    if line.trim().is_empty() {
        return;
    }
    let before = mark.column.saturating_sub(1);
    let skip = if line.chars().count() > MAX_LINE { before.saturating_sub(LEAD) } else { 0 };
    let mut shown = String::from(if skip > 0 { "…" } else { "" });
    let mut indent = usize::from(skip > 0);
    let mut carets = 0;
    for (i, c) in line.chars().enumerate().skip(skip) {
        if i - skip >= MAX_LINE {
            shown.push('…');
            break;
        }
        let columns = columns(c);
        if i < before {
            indent += columns;
        } else if i < before + mark.width {
            carets += columns;
        }
        match c {
            '\t' => shown.push_str("    "),
            c => shown.push(printable(c)),
        }
    }
    let _ = write!(out, "\n{:gutter$} |\n{:gutter$} | {}", "", mark.line, shown.trim_end());
    let _ = write!(out, "\n{:gutter$} | {:indent$}{}", "", "", "^".repeat(carets.max(1)));
}

/// Lines as YAML counts them: ended by LF, CR LF or CR alone. A byte order mark belongs to none.
fn lines(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = Some(text.strip_prefix('\u{feff}').unwrap_or(text));
    std::iter::from_fn(move || {
        let text = rest?;
        let Some((line, after)) = text.split_once(['\n', '\r']) else {
            rest = None;
            return Some(text);
        };
        let cr = text.as_bytes().get(line.len()) == Some(&b'\r');
        rest = Some(if cr { after.strip_prefix('\n').unwrap_or(after) } else { after });
        Some(line)
    })
}

/// `c`, or a replacement for what a terminal would not print as one character.
fn printable(c: char) -> char {
    if matches!(c, '"' | '\'' | '\\') || c.escape_debug().count() == 1 { c } else { '\u{fffd}' }
}

/// Columns that `c` takes on a terminal (Unicode TR 11, the wide blocks).
fn columns(c: char) -> usize {
    match u32::from(c) {
        0x09 => 4,
        0x1100..=0x115F
        | 0x2E80..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1FAFF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mark(line: usize, column: usize, width: usize) -> Mark {
        Mark { line, column, width }
    }

    #[test]
    fn the_marked_piece_stands_under_its_line() {
        let d = Diagnostic::new(mark(2, 4, 3), "wrong").help("do better");
        let expected = "f:2:4: wrong\n  |\n2 | b: xyz\n  |    ^^^\n  = help: do better";
        assert_eq!(render(Path::new("f"), "a: 1\nb: xyz\n", &[d]), expected);
    }

    #[test]
    fn a_mark_behind_wide_characters_and_tabs_is_aligned_with_what_is_shown() {
        let d = Diagnostic::new(mark(1, 4, 2), "wrong");
        assert_eq!(
            render(Path::new("f"), "主\t:好x", &[d]),
            "f:1:4: wrong\n  |\n1 | 主    :好x\n  |        ^^^"
        );
    }

    #[test]
    fn a_long_line_is_cut_around_the_mark() {
        let text = format!("{}x{}", "a".repeat(400), "b".repeat(400));
        let shown = render(Path::new("f"), &text, &[Diagnostic::new(mark(1, 401, 1), "wrong")]);
        let rows: Vec<_> = shown.lines().collect();
        assert!(rows[2].chars().count() < 120, "{shown}");
        assert_eq!(rows[2].chars().position(|c| c == 'x'), rows[3].chars().position(|c| c == '^'), "{shown}");
    }

    #[test]
    fn nothing_from_a_file_acts_on_the_terminal() {
        let d = Diagnostic::new(mark(1, 1, 1), format!("{} is wrong", quoted("\u{1b}[2J\u{202e}")));
        let shown = render(Path::new("f\u{1b}"), "\u{1b}[2J \u{202e}x\u{7f}\u{85}", &[d]);
        assert!(!shown.contains(['\u{1b}', '\u{202e}', '\u{7f}', '\u{85}']), "{shown:?}");
    }

    #[test]
    fn lines_end_as_yaml_ends_them() {
        assert_eq!(lines("\u{feff}a\r\nb\rc\n\nd").collect::<Vec<_>>(), ["a", "b", "c", "", "d"]);
        assert_eq!(Mark::after("a\r\nbc"), mark(2, 3, 1));
    }

    #[test]
    fn more_errors_than_fit_are_counted() {
        let found = vec![Diagnostic::new(Mark::START, "wrong"); MAX_SHOWN + 7];
        assert!(render(Path::new("f"), "a", &found).ends_with("f: 7 more errors are not shown"));
    }
}
