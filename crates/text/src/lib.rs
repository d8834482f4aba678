//! Words of others, made fit to be shown: what a server answers, how a publisher calls its stream, what stands in a file.
//!
//! Whoever writes a text decides what a terminal does with it: control characters move the cursor, U+2028 breaks a line, U+202E
//! turns what follows around, zero-width characters make two names look like one, and a long name pushes the rest away. So each
//! of them goes through [`clean`] or [`fit`] before anybody sees it. What programs read (JSON) keeps the text as it is, escaped.

use std::borrow::Cow;

use unicode_width::UnicodeWidthChar as _;

/// Stands for a character that is not shown.
const REPLACEMENT: char = '\u{fffd}';
/// Stands for what was left out.
const ELLIPSIS: char = '…';

/// `c`, or U+FFFD for what is no character of its own on a terminal: control and format characters, separators of lines and
/// paragraphs, spaces that are not U+0020, what joins the character before it, what has no width, what Unicode does not know.
#[must_use]
pub fn clean_char(c: char) -> char {
    let is_shown = match c {
        ' '..='~' => true,
        // What its debug form escapes does not print; what it does not escape may still have no width.
        _ => c.escape_debug().count() == 1 && c.width().is_some_and(|width| width > 0),
    };
    if is_shown { c } else { REPLACEMENT }
}

/// `text` on one line, each character as [`clean_char`] has it; one character stays one character.
#[must_use]
pub fn clean(text: &str) -> Cow<'_, str> {
    cleaned(text, |_| false)
}

/// `word` as one word of a command for a POSIX shell, whatever it has: quoted where that needs it.
#[must_use]
pub fn shell_word(word: &str) -> Cow<'_, str> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "/._-+,:@%".contains(c);
    if !word.is_empty() && word.chars().all(is_plain) {
        return Cow::Borrowed(word);
    }
    Cow::Owned(format!("'{}'", word.replace('\'', r"'\''")))
}

/// As [`clean`], for a text of several lines: line feeds and tabs stay.
#[must_use]
pub fn clean_lines(text: &str) -> Cow<'_, str> {
    cleaned(text, |c| matches!(c, '\n' | '\t'))
}

fn cleaned(text: &str, is_kept: impl Fn(char) -> bool) -> Cow<'_, str> {
    if text.chars().all(|c| matches!(c, ' '..='~') || is_kept(c)) {
        return Cow::Borrowed(text);
    }
    text.chars().map(|c| if is_kept(c) { c } else { clean_char(c) }).collect()
}

/// `text`, clean, in at most `columns` columns: of a longer one the middle is left out, since names differ at their ends.
#[must_use]
pub fn fit(text: &str, columns: usize) -> String {
    let text = clean(text);
    if width(&text) <= columns {
        return text.into_owned();
    }
    let room = columns.saturating_sub(1);
    let tail_room = room / 3;
    let head = take(text.chars(), room - tail_room);
    let tail = take(text.chars().rev(), tail_room);
    let ellipsis = (columns > 0).then_some(ELLIPSIS);
    head.into_iter().chain(ellipsis).chain(tail.into_iter().rev()).collect()
}

/// How many columns a [clean](clean) `text` takes.
#[must_use]
pub fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

fn char_width(c: char) -> usize {
    c.width().unwrap_or(0)
}

/// As many of the first characters as there is room for.
fn take(chars: impl Iterator<Item = char>, mut room: usize) -> Vec<char> {
    let fits = |c: &char| {
        let left = room.checked_sub(char_width(*c));
        room = left.unwrap_or(room);
        left.is_some()
    };
    chars.take_while(fits).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shell_takes_a_word_as_it_is_also_within_another() {
        for word in ["", "a b", "it's", "$(id) `id` \\ \" *", "-n", "'; id; '", "a=b", "/srv/live/plan.json"]
        {
            let inner = format!("printf %s {}", shell_word(word));
            let outer = format!("sh -c {}", shell_word(&inner));
            let output = std::process::Command::new("sh").args(["-c", &outer]).output().unwrap();
            assert_eq!(String::from_utf8(output.stdout).unwrap(), word);
        }
        assert_eq!(shell_word("/srv/live/plan.json"), "/srv/live/plan.json");
    }

    #[test]
    fn what_a_terminal_obeys_is_not_shown() {
        let hostile = ('\0'..=' ')
            .filter(|c| *c != ' ')
            .chain('\u{7f}'..='\u{a0}')
            .chain('\u{200b}'..='\u{200f}')
            .chain('\u{2028}'..='\u{202e}')
            .chain('\u{2060}'..='\u{206f}')
            .chain(
                "\u{ad}\u{34f}\u{61c}\u{180e}\u{3164}\u{feff}\u{fff9}\u{fe0f}\u{301}\u{e0041}\u{e000}"
                    .chars(),
            );
        for c in hostile {
            assert_eq!(clean(&c.to_string()), "\u{fffd}", "U+{:04X}", u32::from(c));
        }
        assert_eq!(clean_lines("a\tb\n\rc\u{2028}"), "a\tb\n\u{fffd}c\u{fffd}");
    }

    #[test]
    fn what_people_write_stays() {
        for text in ["", "live/a \"b\" 'c' \\", "Grüße, привет, 直播, 라이브, 📺"] {
            assert_eq!(clean(text), text);
            assert_eq!(fit(text, 80), text);
        }
    }

    #[test]
    fn no_text_takes_more_columns_than_it_is_given() {
        let texts = [
            "a".repeat(250),
            "直".repeat(125),
            format!("a{}", "📺".repeat(60)),
            "\u{202e}".repeat(80),
            "abc".into(),
        ];
        for text in texts {
            for columns in 0..=90 {
                let shown = fit(&text, columns);
                assert!(width(&shown) <= columns, "{columns}: {shown}");
                assert_eq!(
                    shown.contains('…'),
                    columns > 0 && width(&clean(&text)) > columns,
                    "{columns}: {shown}"
                );
            }
        }
        assert_eq!(fit("rtmp://127.0.0.6:1935/live/camera-17", 20), "rtmp://127.0.…era-17");
    }
}
