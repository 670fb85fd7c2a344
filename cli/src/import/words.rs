//! The words of a line of keepalived.conf: blanks part them, quotes keep them together.

/// A word of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Word {
    /// Without its quotes.
    pub(super) text: String,
    /// Whether it has quoted parts: then a brace in it is no block's.
    pub(super) quoted: bool,
}

/// The line up to its comment: `#` and `!` outside of quotes.
pub(super) fn without_comment(line: &str) -> &str {
    let mut quote = None;
    let mut chars = line.char_indices();
    while let Some((at, c)) = chars.next() {
        match (quote, c) {
            (_, '\\') => drop(chars.next()),
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => quote = Some(c),
            (None, '#' | '!') => return line.get(..at).unwrap_or_default(),
            _ => {}
        }
    }
    line
}

/// The words of a line. Quotes keep blanks; in them a backslash escapes as in a shell. Braces that stand
/// alone, or end a word, are words.
pub(super) fn words(line: &str) -> Vec<Word> {
    let mut all: Vec<Word> = Vec::new();
    let mut word: Option<Word> = None;
    let mut quote = None;
    let mut chars = line.chars().peekable();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(open), c) if c == open => quote = None,
            (None, '"' | '\'') => {
                quote = Some(c);
                word.get_or_insert_with(Word::empty).quoted = true;
            }
            (Some(_), '\\') => word
                .get_or_insert_with(Word::empty)
                .text
                .push(escaped(&mut chars)),
            (None, '\\') if matches!(chars.peek(), Some('#' | '!')) => {
                let word = word.get_or_insert_with(Word::empty);
                word.text.extend(chars.next());
            }
            (None, c) if c.is_whitespace() => all.extend(word.take()),
            (_, c) => word.get_or_insert_with(Word::empty).text.push(c),
        }
    }
    all.extend(word);
    // `80{`
    let mut split = Vec::with_capacity(all.len());
    for word in all {
        match word.text.strip_suffix('{') {
            Some(before) if !word.quoted && !before.is_empty() && !before.contains('{') => {
                split.push(Word {
                    text: before.to_owned(),
                    quoted: false,
                });
                split.push(Word {
                    text: "{".to_owned(),
                    quoted: false,
                });
            }
            _ => split.push(word),
        }
    }
    split
}

impl Word {
    fn empty() -> Self {
        Self {
            text: String::new(),
            quoted: false,
        }
    }
}

/// What stands behind a backslash in quotes.
fn escaped(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> char {
    let number = |digits: &str, radix| {
        u32::from_str_radix(digits, radix)
            .ok()
            .and_then(char::from_u32)
            .unwrap_or('?')
    };
    match chars.next() {
        Some('a') => '\x07',
        Some('b') => '\x08',
        Some('E') => '\x1b',
        Some('f') => '\x0c',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some('v') => '\x0b',
        Some('c') => char::from(chars.next().map_or(0, |c| c as u8 & 0x1f)),
        Some('x') => {
            let mut digits = String::new();
            while let Some(c) = chars.next_if(char::is_ascii_hexdigit) {
                digits.push(c);
            }
            number(&digits, 16)
        }
        Some(first @ '0'..='7') => {
            let mut digits = String::from(first);
            while digits.len() < 3
                && let Some(c) = chars.next_if(|c| ('0'..='7').contains(c))
            {
                digits.push(c);
            }
            number(&digits, 8)
        }
        Some(c) => c,
        None => '\\',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts(line: &str) -> Vec<String> {
        words(line).into_iter().map(|word| word.text).collect()
    }

    #[test]
    fn words_are_as_the_manual_has_them() {
        assert_eq!(texts("abcd\" efg h jkl \"mnop"), ["abcd efg h jkl mnop"]);
        assert_eq!(
            texts("abcd \"efg h jkl\" mnop"),
            ["abcd", "efg h jkl", "mnop"]
        );
        assert_eq!(texts(r#"regex "a\\d\x41\101""#), ["regex", "a\\dAA"]);
        assert_eq!(
            texts("real_server 10.0.0.1 80{"),
            ["real_server", "10.0.0.1", "80", "{"]
        );
        assert!(words("x \"{\"").last().is_some_and(|word| word.quoted));
    }

    #[test]
    fn comments_end_a_line_outside_of_quotes() {
        assert_eq!(without_comment("weight 3 # three"), "weight 3 ");
        assert_eq!(without_comment("a ! b"), "a ");
        assert_eq!(without_comment("a \"#1 !\" c"), "a \"#1 !\" c");
    }
}
