//! Flags of a service's scheduler, in `ipvsadm`'s words (`-b sh-port,sh-fallback`). Two of mh carry a
//! value: `mh-size=65521` and `mh-seed=7`; what the kernel fixes when it is built is here a service's.

use core::fmt;
use core::str::FromStr;

use thiserror::Error;

/// Flags of a scheduler. Which scheduler takes which is the registry's knowledge.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Flags {
    /// `mh-fallback`: as `sh-fallback`, of mh.
    pub mh_fallback: bool,
    /// `mh-port`: as `sh-port`, of mh.
    pub mh_port: bool,
    /// `mh-seed=N`: makes mh's table and hash another one, which clients cannot predict; all
    /// directors of a service need the same. 0: the kernel's.
    pub mh_seed: u64,
    /// `mh-size=N`: places in mh's table.
    pub mh_size: MhSize,
    /// `sh-fallback`: sh looks for another server when the one of the client's bucket is not
    /// available; without it such a client gets none.
    pub sh_fallback: bool,
    /// `sh-port`: sh hashes the client's port along with its address.
    pub sh_port: bool,
}

/// Size of mh's table: one of the kernel's primes (`CONFIG_IP_VS_MH_TAB_INDEX` 8 to 17).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct MhSize(u32);

impl MhSize {
    /// The sizes that there are.
    pub const ALL: [u32; 10] = [
        251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071,
    ];

    /// Of a number of places; `None` if it is none of [`MhSize::ALL`].
    pub fn new(places: u32) -> Option<Self> {
        Self::ALL.contains(&places).then_some(Self(places))
    }

    /// Number of places.
    pub const fn places(self) -> u32 {
        self.0
    }

    /// The kernel's `IP_VS_MH_TAB_BITS`: the heaviest server takes fewer than two to the power of
    /// this places in a row.
    pub(crate) fn turn_bits(self) -> u32 {
        let index = (8..).zip(Self::ALL).find(|(_, size)| *size == self.0);
        index.map_or(6, |(index, _)| index / 2)
    }
}

impl Default for MhSize {
    /// The kernel's default.
    fn default() -> Self {
        Self(4093)
    }
}

/// Why a word sets no flag.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum FlagError {
    /// No flag is called like this.
    #[error("no scheduler flag is called `{word}`; known are: {}", Flags::WORDS.join(", "))]
    Unknown {
        /// The word.
        word: String,
    },
    /// What follows `=` is not what the flag takes.
    #[error("`{flag}` is {given}, and has to be {wanted}")]
    Value {
        /// The flag.
        flag: &'static str,
        /// What it is.
        given: String,
        /// What it may be.
        wanted: String,
    },
}

impl Flags {
    /// Every flag's name, in alphabetic order.
    pub const WORDS: [&'static str; 6] = [
        "mh-fallback",
        "mh-port",
        "mh-seed",
        "mh-size",
        "sh-fallback",
        "sh-port",
    ];

    /// Sets the flag of a word.
    ///
    /// # Errors
    /// [`FlagError`], the flags unchanged.
    pub fn set(&mut self, word: &str) -> Result<(), FlagError> {
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (word, None),
        };
        let wrong = |flag, wanted: &str| FlagError::Value {
            flag,
            given: value.map_or_else(|| "without a value".to_owned(), |v| format!("\"{v}\"")),
            wanted: wanted.to_owned(),
        };
        let on = match name {
            "mh-fallback" => &mut self.mh_fallback,
            "mh-port" => &mut self.mh_port,
            "sh-fallback" => &mut self.sh_fallback,
            "sh-port" => &mut self.sh_port,
            "mh-seed" => {
                let seed = value.and_then(|v| v.parse().ok());
                self.mh_seed = seed.ok_or_else(|| wrong("mh-seed", "a number below 2^64"))?;
                return Ok(());
            }
            "mh-size" => {
                let size = value.and_then(|v| MhSize::new(v.parse().ok()?));
                let sizes = MhSize::ALL.map(|s| s.to_string()).join(", ");
                self.mh_size = size.ok_or_else(|| {
                    wrong("mh-size", &format!("one of the kernel's primes: {sizes}"))
                })?;
                return Ok(());
            }
            _ => {
                return Err(FlagError::Unknown {
                    word: word.to_owned(),
                });
            }
        };
        if value.is_some() {
            return Err(FlagError::Unknown {
                word: word.to_owned(),
            });
        }
        *on = true;
        Ok(())
    }

    /// Names of the flags that are not at their defaults, in alphabetic order.
    pub(crate) fn names(&self) -> impl Iterator<Item = &'static str> {
        let set = [
            self.mh_fallback,
            self.mh_port,
            self.mh_seed != 0,
            self.mh_size != MhSize::default(),
            self.sh_fallback,
            self.sh_port,
        ];
        Self::WORDS
            .into_iter()
            .zip(set)
            .filter_map(|(word, set)| set.then_some(word))
    }

    /// Words of the flags that are not at their defaults, in alphabetic order; [`Flags::set`]
    /// takes them.
    pub fn words(&self) -> impl Iterator<Item = String> {
        self.names().map(|name| match name {
            "mh-seed" => format!("{name}={}", self.mh_seed),
            "mh-size" => format!("{name}={}", self.mh_size.places()),
            _ => name.to_owned(),
        })
    }
}

impl FromStr for Flags {
    type Err = FlagError;

    /// From words with commas between them; nothing is no flag.
    fn from_str(s: &str) -> Result<Self, FlagError> {
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
        for text in [
            "",
            "sh-port",
            "sh-fallback,sh-port",
            "mh-fallback,mh-port,mh-seed=18446744073709551615,mh-size=251",
        ] {
            assert_eq!(
                text.parse::<Flags>().map(|f| f.to_string()),
                Ok(text.to_owned())
            );
        }
    }

    #[test]
    fn errors_name_the_word_and_what_would_be_right() {
        let error = |text: &str| text.parse::<Flags>().expect_err("wrong").to_string();
        let known = "known are: mh-fallback, mh-port, mh-seed, mh-size, sh-fallback, sh-port";
        for word in ["sh-prot", "sh-port=1", "mh-size:251"] {
            assert_eq!(
                error(word),
                format!("no scheduler flag is called `{word}`; {known}")
            );
        }
        assert_eq!(
            error("mh-size=4096"),
            "`mh-size` is \"4096\", and has to be one of the kernel's primes: 251, 509, 1021, \
             2039, 4093, 8191, 16381, 32749, 65521, 131071"
        );
        assert_eq!(
            error("mh-seed"),
            "`mh-seed` is without a value, and has to be a number below 2^64"
        );
        assert!(error("mh-seed=-1").contains("is \"-1\""));
    }
}
