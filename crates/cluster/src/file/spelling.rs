//! Which known word a misspelt one stands for.

/// The one of `words` that `text` is most likely a misspelling of.
pub(super) fn nearest(text: &str, words: &[&'static str]) -> Option<&'static str> {
    let text: Vec<char> = text.chars().take(32).map(|c| c.to_ascii_lowercase()).collect();
    (0..=2).find_map(|edits| {
        let near =
            |word: &&&str| edits < word.len() / 2 && within(&text, &word.chars().collect::<Vec<_>>(), edits);
        words.iter().find(near).copied()
    })
}

/// Whether at most `edits` insertions, deletions, replacements and swaps of neighbours make `a` into `b`.
fn within(a: &[char], b: &[char], edits: usize) -> bool {
    if a.len().abs_diff(b.len()) > edits {
        return false;
    }
    let ([x, a_rest @ ..], [y, b_rest @ ..]) = (a, b) else { return true };
    if x == y {
        return within(a_rest, b_rest, edits);
    }
    let Some(edits) = edits.checked_sub(1) else { return false };
    let swapped = match (a, b) {
        ([p, q, a_rest @ ..], [r, s, b_rest @ ..]) => p == s && q == r && within(a_rest, b_rest, edits),
        _ => false,
    };
    swapped || within(a_rest, b_rest, edits) || within(a, b_rest, edits) || within(a_rest, b, edits)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_misspelt_key_finds_the_one_that_was_meant() {
        let near = |text| nearest(text, &["cluster", "host", "port", "max_connections", "gop_cache"]);
        assert_eq!(near("prot"), Some("port"));
        assert_eq!(near("ports"), Some("port"));
        assert_eq!(near("Host"), Some("host"));
        assert_eq!(near("max-connection"), Some("max_connections"));
        assert_eq!(near("gopcache"), Some("gop_cache"));
        assert_eq!(near("latency"), None);
        assert_eq!(near(""), None);
        assert_eq!(near(&"x".repeat(100_000)), None);
    }

    #[test]
    fn an_edit_is_an_insertion_a_deletion_a_replacement_or_a_swap() {
        let chars = |s: &str| s.chars().collect::<Vec<_>>();
        let least = |a: &str, b: &str| (0..).find(|n| within(&chars(a), &chars(b), *n)).unwrap();
        assert_eq!(least("", ""), 0);
        assert_eq!(least("abc", ""), 3);
        assert_eq!(least("", "abc"), 3);
        assert_eq!(least("abcd", "abdc"), 1);
        assert_eq!(least("kitten", "sitting"), 3);
    }
}
