//! Flags of a service's scheduler, in `ipvsadm`'s words (`-b sh-port,sh-fallback`).

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// Flags of a scheduler. Which scheduler takes which is the registry's knowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// `sh-fallback`: sh looks for another server when the one of the client's bucket is not
    /// available; without it such a client gets none.
    pub sh_fallback: bool,
    /// `sh-port`: sh hashes the client's port along with its address.
    pub sh_port: bool,
}

/// A word that is no flag.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("no scheduler flag is called `{word}`; known are: {}", Flags::WORDS.join(", "))]
pub struct UnknownFlag {
    /// The word.
    pub word: String,
}

impl Flags {
    /// Every flag's word, in alphabetic order.
    pub const WORDS: [&'static str; 2] = ["sh-fallback", "sh-port"];

    /// Sets the flag of a word.
    ///
    /// # Errors
    /// [`UnknownFlag`], the flags unchanged.
    pub fn set(&mut self, word: &str) -> Result<(), UnknownFlag> {
        match word {
            "sh-fallback" => self.sh_fallback = true,
            "sh-port" => self.sh_port = true,
            _ => {
                return Err(UnknownFlag {
                    word: word.to_owned(),
                });
            }
        }
        Ok(())
    }

    /// Words of the flags that are set, in alphabetic order.
    pub fn words(&self) -> impl Iterator<Item = &'static str> {
        Self::WORDS
            .into_iter()
            .zip([self.sh_fallback, self.sh_port])
            .filter_map(|(word, set)| set.then_some(word))
    }
}

impl FromStr for Flags {
    type Err = UnknownFlag;

    /// From words with commas between them; nothing is no flag.
    fn from_str(s: &str) -> Result<Self, UnknownFlag> {
        let mut flags = Self::default();
        for word in s.split(',').map(str::trim).filter(|w| !w.is_empty()) {
            flags.set(word)?;
        }
        Ok(flags)
    }
}

impl fmt::Display for Flags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (n, word) in self.words().enumerate() {
            write!(f, "{}{word}", if n == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_go_both_ways() {
        for text in ["", "sh-port", "sh-fallback,sh-port"] {
            assert_eq!(
                text.parse::<Flags>().map(|f| f.to_string()),
                Ok(text.to_owned())
            );
        }
        let wrong = "sh-prot".parse::<Flags>().map_err(|e| e.to_string());
        assert_eq!(
            wrong,
            Err("no scheduler flag is called `sh-prot`; known are: sh-fallback, sh-port".into())
        );
    }
}
