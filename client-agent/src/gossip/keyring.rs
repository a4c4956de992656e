//! The keys of gossip, and how they change: installed on all members, then used by all, then the old one removed, so that at no
//! moment two members lack a common key. Pure; [`super::driver`] carries errands to the members and writes the file.

use std::collections::BTreeMap;

use super::envelope::{Key, KeyError};

/// Keys of a node at most.
pub const MAX_KEYS: usize = 32;

/// The keys of a node; the first one encrypts, each one opens.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Ring(Vec<Key>);

/// What a node is told to do with its keys.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Errand {
    /// Say which there are.
    List,
    /// Add one, to open with.
    Install(Key),
    /// Encrypt with this one from now on.
    Use(Key),
    /// Forget one.
    Remove(Key),
}

/// Why a node did not do it. The texts are Consul's where it has them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It has no such key.
    #[error("Requested key is not in the keyring")]
    NotThere,
    /// It encrypts with that key.
    #[error("Removing the primary key is not allowed")]
    Primary,
    /// Gossip is in clear.
    #[error("Keyring is empty (encryption not enabled)")]
    Empty,
    /// The same, for a change.
    #[error("No keyring to modify (encryption not enabled)")]
    NoRing,
    /// It has too many.
    #[error("there are {MAX_KEYS} keys already: remove one that is not used any more")]
    Full,
    /// Its file could not be written, so that it would have forgotten the change at its next start.
    #[error("the keyring file cannot be written: see the log of this node; nothing was changed there")]
    File,
    /// Keys would travel for everyone to read.
    #[error("encrypt_verify_incoming or encrypt_verify_outgoing is false: keys do not travel in clear")]
    InClear,
    /// The member to hand it on to is none.
    #[error("the member that this was to be handed on to is not known here")]
    Stranger,
    /// The member to hand it on to did not answer.
    #[error("it did not answer the member that handed this on, either")]
    Silent,
}

const CODES: [Refused; 9] = [
    Refused::NotThere,
    Refused::Primary,
    Refused::Empty,
    Refused::NoRing,
    Refused::Full,
    Refused::File,
    Refused::InClear,
    Refused::Stranger,
    Refused::Silent,
];

impl Refused {
    /// Its number on the wire.
    pub fn code(self) -> u8 {
        CODES.iter().position(|r| *r == self).and_then(|n| u8::try_from(n).ok()).unwrap_or_default()
    }

    /// The reverse of [`Self::code`].
    pub fn from_code(code: u8) -> Option<Self> {
        CODES.get(usize::from(code)).copied()
    }
}

/// Why a text is no keyring.
#[derive(Debug, thiserror::Error)]
pub enum RingError {
    /// No list of texts in JSON.
    #[error("it is not a JSON list of keys")]
    NoList,
    /// One of the texts is no key.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// It holds none.
    #[error("there is no key in it")]
    Empty,
}

impl Ring {
    /// Of these keys; the first one encrypts.
    pub fn new(keys: Vec<Key>) -> Self {
        Self(keys)
    }

    /// Proves, about these bytes, that we know a key of this gossip; empty where there is none.
    pub fn proof(&self, of: &[u8]) -> Vec<u8> {
        self.0.first().map_or_else(Vec::new, |key| key.sign(of))
    }

    /// Whether that was proven, with any of the keys; without keys nothing needs to be.
    pub fn proves(&self, of: &[u8], proof: &[u8]) -> bool {
        self.0.is_empty() || self.0.iter().any(|key| key.signed(of, proof))
    }

    /// The keys, the one that encrypts first.
    pub fn keys(&self) -> &[Key] {
        &self.0
    }

    /// The keys after an errand.
    pub fn after(&self, errand: &Errand) -> Result<Self, Refused> {
        if self.0.is_empty() {
            return Err(if *errand == Errand::List { Refused::Empty } else { Refused::NoRing });
        }
        let mut keys = self.0.clone();
        match errand {
            Errand::List => {}
            Errand::Install(key) if keys.contains(key) => {}
            Errand::Install(_) if keys.len() >= MAX_KEYS => return Err(Refused::Full),
            Errand::Install(key) => keys.push(key.clone()),
            Errand::Use(key) => {
                let at = keys.iter().position(|k| k == key).ok_or(Refused::NotThere)?;
                let key = keys.remove(at);
                keys.insert(0, key);
            }
            Errand::Remove(key) if keys.first() == Some(key) => return Err(Refused::Primary),
            Errand::Remove(key) => keys.retain(|k| k != key),
        }
        Ok(Self(keys))
    }

    /// As its file has it: Consul's form.
    pub fn render(&self) -> String {
        let keys: Vec<String> = self.0.iter().map(|key| format!("  \"{}\"", key.base64())).collect();
        format!("[\n{}\n]", keys.join(",\n"))
    }

    /// From its file, Consul's or ours.
    pub fn parse(text: &str) -> Result<Self, RingError> {
        // A list of base64 is JSON of the plainest kind: nothing in it needs an escape.
        let list = text.trim().strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).ok_or(RingError::NoList)?;
        if list.trim().is_empty() {
            return Err(RingError::Empty);
        }
        let text = |item: &'_ str| item.trim().strip_prefix('"')?.strip_suffix('"').map(str::to_owned);
        let texts = list.split(',').map(text).collect::<Option<Vec<String>>>().ok_or(RingError::NoList)?;
        Ok(Self(texts.iter().map(|text| Key::parse(text)).collect::<Result<_, _>>()?))
    }
}

/// What came of an errand to all members.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Members asked.
    pub nodes: u32,
    /// How many members have each key, in base64.
    pub keys: BTreeMap<String, u32>,
    /// How many members encrypt with each key.
    pub primary: BTreeMap<String, u32>,
    /// What the members said that did not do it, and why others did not answer, by name.
    pub messages: BTreeMap<String, String>,
    /// In one line; `None`: all of them did it.
    pub error: Option<String>,
}

/// What a member said, or why nothing came from it.
pub type Said = Result<Result<Ring, Refused>, String>;

impl Report {
    /// From what each member said. Consul's words: what failed goes before what is missing.
    pub fn of(errand: &Errand, said: Vec<(String, Said)>) -> Self {
        let mut report = Self { nodes: u32::try_from(said.len()).unwrap_or(u32::MAX), ..Self::default() };
        let (mut failed, mut silent) = (0, 0);
        for (name, said) in said {
            match said {
                Ok(Ok(ring)) if *errand == Errand::List => {
                    for (at, key) in ring.keys().iter().enumerate() {
                        *report.keys.entry(key.base64()).or_default() += 1;
                        if at == 0 {
                            *report.primary.entry(key.base64()).or_default() += 1;
                        }
                    }
                }
                Ok(Ok(_)) => {}
                Ok(Err(why)) => {
                    failed += 1;
                    report.messages.insert(name, why.to_string());
                }
                Err(why) => {
                    silent += 1;
                    report.messages.insert(name, format!("no answer: {why}"));
                }
            }
        }
        let nodes = report.nodes;
        report.error = match (failed, silent) {
            (0, 0) => None,
            (0, _) => Some(format!("{}/{nodes} nodes reported success", nodes - silent)),
            _ => Some(format!("{failed}/{nodes} nodes reported failure")),
        };
        report
    }

    /// None of them did it, for one reason that needs no asking.
    pub fn refused(names: Vec<String>, why: &str) -> Self {
        let nodes = u32::try_from(names.len()).unwrap_or(u32::MAX);
        let messages = names.into_iter().map(|name| (name, why.to_owned())).collect();
        Self { nodes, messages, error: Some(format!("{nodes}/{nodes} nodes reported failure")), ..Self::default() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(byte: u8) -> Key {
        Key::new(&[byte; 16]).unwrap()
    }

    fn ring(bytes: &[u8]) -> Ring {
        Ring::new(bytes.iter().map(|b| key(*b)).collect())
    }

    #[test]
    fn keys_come_are_used_and_go() {
        let errands: [(&[u8], Errand, Result<Ring, Refused>); 11] = [
            (&[1], Errand::List, Ok(ring(&[1]))),
            (&[1], Errand::Install(key(2)), Ok(ring(&[1, 2]))),
            (&[1, 2], Errand::Install(key(2)), Ok(ring(&[1, 2]))),
            (&[1], Errand::Use(key(2)), Err(Refused::NotThere)),
            (&[1, 3, 2], Errand::Use(key(2)), Ok(ring(&[2, 1, 3]))),
            (&[1, 2], Errand::Use(key(1)), Ok(ring(&[1, 2]))),
            (&[1, 2], Errand::Remove(key(1)), Err(Refused::Primary)),
            (&[1, 2], Errand::Remove(key(2)), Ok(ring(&[1]))),
            (&[1, 2], Errand::Remove(key(3)), Ok(ring(&[1, 2]))),
            (&[], Errand::List, Err(Refused::Empty)),
            (&[], Errand::Install(key(1)), Err(Refused::NoRing)),
        ];
        for (before, errand, after) in errands {
            assert_eq!(ring(before).after(&errand), after, "{before:?} {errand:?}");
        }
        let full = ring(&(0..MAX_KEYS as u8).collect::<Vec<_>>());
        assert_eq!(full.after(&Errand::Install(key(200))), Err(Refused::Full));
    }

    #[test]
    fn the_file_is_consuls() {
        let consul = "[\n  \"YCEL63F62U9atRZnC1IcS6NgtPZ/OObEUD2oYPhGDsM=\",\n  \"AQEBAQEBAQEBAQEBAQEBAQ==\"\n]";
        let ring = Ring::parse(consul).unwrap();
        assert_eq!((ring.render().as_str(), ring.keys().len()), (consul, 2));
        assert_eq!(ring.keys()[1], key(1));
        for (text, why) in [
            ("", "it is not a JSON list of keys"),
            ("{\"a\": 1}", "it is not a JSON list of keys"),
            ("[1]", "it is not a JSON list of keys"),
            ("[\"AQEBAQEBAQEBAQEBAQEBAQ==\",]", "it is not a JSON list of keys"),
            ("[ ]", "there is no key in it"),
            (
                "[\"AQEB\"]",
                "the gossip key is 3 bytes long; it must be 16 or 32 bytes in base64; make one with `causeway keygen`",
            ),
        ] {
            assert_eq!(Ring::parse(text).unwrap_err().to_string(), why, "{text}");
        }
        assert!(!format!("{ring:?}").contains("YCEL"));
    }

    #[test]
    fn reports_count_as_consuls() {
        let said = |name: &str, said: Said| (name.to_owned(), said);
        let both = vec![said("a", Ok(Ok(ring(&[1, 2])))), said("b", Ok(Ok(ring(&[2]))))];
        let report = Report::of(&Errand::List, both);
        assert_eq!((report.nodes, &report.error), (2, &None));
        assert_eq!(report.keys.into_values().collect::<Vec<_>>(), [1, 2]);
        assert_eq!(report.primary.into_values().collect::<Vec<_>>(), [1, 1]);
        let some =
            vec![said("a", Ok(Err(Refused::Primary))), said("b", Err("late".into())), said("c", Ok(Ok(ring(&[1]))))];
        let report = Report::of(&Errand::Remove(key(1)), some);
        assert_eq!(report.error.as_deref(), Some("1/3 nodes reported failure"));
        assert_eq!(report.messages["a"], "Removing the primary key is not allowed");
        assert_eq!(report.messages["b"], "no answer: late");
        assert!(report.keys.is_empty());
        let late = vec![said("a", Ok(Ok(ring(&[1])))), said("b", Err("late".into()))];
        assert_eq!(Report::of(&Errand::List, late).error.as_deref(), Some("1/2 nodes reported success"));
        let report = Report::refused(vec!["a".into(), "b".into()], "no");
        assert_eq!((report.error.as_deref(), report.messages.len()), (Some("2/2 nodes reported failure"), 2));
    }

    #[test]
    fn codes_go_both_ways() {
        assert!(CODES.iter().all(|why| Refused::from_code(why.code()) == Some(*why)));
        assert_eq!(Refused::from_code(200), None);
    }
}
