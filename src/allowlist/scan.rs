//! Sources → words, each with its place. Knows lines, comments and separators, not entries.

use super::{Source, SourceKind, problem::Problem};

/// What stands at a place: the text of an entry, or why there is none.
pub(super) struct Word<'a> {
    pub line: u32,
    pub column: u32,
    pub text: Result<&'a str, Problem>,
}

/// Every word of a source. `ordinal` is the line of a flag's value, which has no lines of its own.
pub(super) fn words(source: &Source, ordinal: u32) -> Box<dyn Iterator<Item = Word<'_>> + '_> {
    match source.kind {
        SourceKind::Lines => Box::new(lines(&source.text).flat_map(|(line, text)| {
            let word = uncommented(text).map(trimmed);
            placed(line, word.map(|word| [word].into_iter()))
        })),
        SourceKind::Words => Box::new(
            lines(&source.text)
                .flat_map(|(line, text)| placed(line, uncommented(text).map(split_words))),
        ),
        SourceKind::Entry => {
            let word = uncommented_value(&source.text).map(trimmed);
            Box::new(placed(ordinal, word.map(|word| [word].into_iter())))
        }
    }
}

/// The words of a variable that holds several values: separated by blanks and commas, where a
/// comma followed by a port or a range of ports belongs to the word, `github.com:22,443`.
pub fn split_list(text: &str) -> impl Iterator<Item = &str> {
    split_words(text).map(|(_, word)| word)
}

/// The lines with their numbers, without a byte order mark. What ends a line is LF alone; the CR
/// before it is a blank at the end.
fn lines(text: &[u8]) -> impl Iterator<Item = (u32, &[u8])> {
    let text = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    (1..).zip(text.split(|octet| *octet == b'\n'))
}

/// Bytes as text up to `#`, or the column of the first that are none.
fn uncommented(line: &[u8]) -> Result<&str, u32> {
    let line = decoded(line)?;
    Ok(line.find('#').map_or(line, |comment| &line[..comment]))
}

/// A flag's value: one entry, so that a line break in it is a blank like any other.
fn uncommented_value(value: &[u8]) -> Result<&str, u32> {
    match decoded(value)? {
        several if several.trim().contains('\n') => Ok(several),
        one => uncommented(one.as_bytes()),
    }
}

fn decoded(bytes: &[u8]) -> Result<&str, u32> {
    std::str::from_utf8(bytes).map_err(|error| {
        let valid = String::from_utf8_lossy(&bytes[..error.valid_up_to()]);
        column_after(&valid)
    })
}

/// The column behind `text`, which starts in column 1.
pub(super) fn column_after(text: &str) -> u32 {
    u32::try_from(text.chars().count())
        .unwrap_or(u32::MAX)
        .saturating_add(1)
}

/// Pairs words with their line, drops the empty ones, and turns a decoding error into a word.
fn placed<'a, I>(line: u32, words: Result<I, u32>) -> impl Iterator<Item = Word<'a>>
where
    I: Iterator<Item = (u32, &'a str)>,
{
    let (words, error) = match words {
        Ok(words) => (Some(words), None),
        Err(column) => (None, Some(column)),
    };
    let words = words.into_iter().flatten();
    let words = words.filter(|(_, word)| !word.is_empty());
    let error = error.map(move |column| Word {
        line,
        column,
        text: Err(Problem::NotUtf8),
    });
    words
        .map(move |(column, word)| Word {
            line,
            column,
            text: Ok(word),
        })
        .chain(error)
}

/// A line without the blanks around it, and the column where it then starts.
fn trimmed(line: &str) -> (u32, &str) {
    let word = line.trim_start();
    let before = &line[..line.len() - word.len()];
    (column_after(before), word.trim_end())
}

/// The words of one line with their columns.
fn split_words(line: &str) -> impl Iterator<Item = (u32, &str)> {
    let (mut rest, mut column) = (line, 1_u32);
    std::iter::from_fn(move || {
        let word_start = rest.find(|c: char| !is_separator(c))?;
        column += column_after(&rest[..word_start]) - 1;
        rest = &rest[word_start..];
        let (word, behind) = rest.split_at(word_end(rest));
        let found = (column, word);
        column += column_after(word) - 1;
        rest = behind;
        Some(found)
    })
}

fn is_separator(character: char) -> bool {
    character.is_whitespace() || character == ','
}

/// Where the word ends that `text` starts with.
fn word_end(text: &str) -> usize {
    let mut end = 0;
    loop {
        end += text[end..].find(is_separator).unwrap_or(text.len() - end);
        match text[end..].strip_prefix(',') {
            Some(next) if starts_with_ports(next) => end += 1,
            _ => return end,
        }
    }
}

/// Whether the next word is a port or a range of them, perhaps with what may follow the last of a
/// list: `443`, `8000-8100/udp`, and `443@10.0.0.0/8` of `--inbound`.
fn starts_with_ports(text: &str) -> bool {
    let ports = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '-');
    let ended =
        ports.is_empty() || ports.starts_with(|c: char| is_separator(c) || "/@".contains(c));
    text.starts_with(|c: char| c.is_ascii_digit()) && ended
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(kind: SourceKind, text: &[u8]) -> Vec<(u32, u32, String)> {
        let source = Source {
            label: String::new(),
            text: text.to_vec(),
            kind,
        };
        words(&source, 7)
            .map(|word| {
                let text = word
                    .text
                    .map_or_else(|problem| problem.to_string(), str::to_owned);
                (word.line, word.column, text)
            })
            .collect()
    }

    fn at(line: u32, column: u32, text: &str) -> (u32, u32, String) {
        (line, column, text.to_owned())
    }

    #[test]
    fn a_file_has_a_word_a_line() {
        let text =
            "\u{feff}a.com\r\n\r\n  \tb.com # c.com\n#\n# ünï\nü#x\n\u{3000}d.com  e.com\t\n";
        assert_eq!(
            list(SourceKind::Lines, text.as_bytes()),
            [
                at(1, 1, "a.com"),
                at(3, 4, "b.com"),
                at(6, 1, "ü"),
                at(7, 2, "d.com  e.com"),
            ]
        );
    }

    #[test]
    fn bytes_that_are_no_text_have_a_place() {
        let text = b"a.com\n\xc3\xbc\xff.com\n# \xfe\nb.com\n\xef\xbb";
        let bad = Problem::NotUtf8.to_string();
        assert_eq!(
            list(SourceKind::Lines, text),
            [
                at(1, 1, "a.com"),
                at(2, 2, &bad),
                at(3, 3, &bad),
                at(4, 1, "b.com"),
                at(5, 1, &bad),
            ]
        );
        assert_eq!(list(SourceKind::Entry, b"ab\xff"), [at(7, 3, &bad)]);
    }

    #[test]
    fn a_variable_has_words_and_commas_that_belong_to_ports() {
        let text = "a.com,b.com  ü.com:22,443,c.com\n,,d.com:1-2,80-90/udp,192.0.2.7,2001:db8::1 # e\nf,8x";
        assert_eq!(
            list(SourceKind::Words, text.as_bytes()),
            [
                at(1, 1, "a.com"),
                at(1, 7, "b.com"),
                at(1, 14, "ü.com:22,443"),
                at(1, 27, "c.com"),
                at(2, 3, "d.com:1-2,80-90/udp"),
                at(2, 23, "192.0.2.7"),
                at(2, 33, "2001:db8::1"),
                at(3, 1, "f"),
                at(3, 3, "8x"),
            ]
        );
        let inbound: Vec<&str> = split_list("8080 22/tcp@10.0.0.0/8,\n 53,80/udp@::/0").collect();
        assert_eq!(inbound, ["8080", "22/tcp@10.0.0.0/8", "53,80/udp@::/0"]);
    }

    #[test]
    fn a_flag_has_one_word() {
        assert_eq!(
            list(SourceKind::Entry, b" a.com # b\n"),
            [at(7, 2, "a.com")]
        );
        assert_eq!(list(SourceKind::Entry, b"a#\nb"), [at(7, 1, "a#\nb")]);
        assert_eq!(list(SourceKind::Entry, b"# a"), []);
    }
}
