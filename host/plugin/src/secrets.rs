//! Secrets that a stage is granted, and how their values are kept out of what people are shown.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

/// What stands in a text in a secret's place.
const HIDDEN: &str = "***";

/// The secrets of one stage by name. Neither shown nor written out.
#[derive(Clone, Default)]
pub struct Secrets {
    values: BTreeMap<String, Vec<u8>>,
    /// Those that may stand in a text, the longest first: one may be a part of another.
    texts: Vec<String>,
}

impl Secrets {
    /// These secrets: names and values.
    #[must_use]
    pub fn new(values: impl IntoIterator<Item = (String, Vec<u8>)>) -> Self {
        let values: BTreeMap<String, Vec<u8>> = values.into_iter().collect();
        let texts = values.values().filter_map(|value| String::from_utf8(value.clone()).ok());
        let mut texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
        texts.sort_by_key(|text| std::cmp::Reverse(text.len()));
        Self { values, texts }
    }

    /// A secret's value.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.values.get(name).map(Vec::as_slice)
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.values.is_empty()
    }

    /// The text with `***` wherever a secret stands in it as it is.
    pub(crate) fn hide<'t>(&self, text: &'t str) -> Cow<'t, str> {
        let mut hidden = Cow::Borrowed(text);
        for secret in &self.texts {
            if hidden.contains(secret.as_str()) {
                hidden = Cow::Owned(hidden.replace(secret.as_str(), HIDDEN));
            }
        }
        hidden
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.values.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::Secrets;

    fn secrets(values: &[&str]) -> Secrets {
        let named = values.iter().enumerate().map(|(i, v)| (format!("s{i}"), v.as_bytes().to_vec()));
        Secrets::new(named)
    }

    #[test]
    fn a_secret_is_hidden_wherever_it_stands_and_nothing_else_is() {
        for (values, text, shown) in [
            (&["hunter2"][..], "key hunter2, hunter2!", "key ***, ***!"),
            (&["hunter2"], "hunter 2", "hunter 2"),
            (&["abc", "abcdef"], "abcdef abc", "*** ***"),
            (&["schlüssel"], "ein schlüssel.", "ein ***."),
            (&["two\nlines"], "a two\nlines b", "a *** b"),
            (&[""], "nothing", "nothing"),
            (&[], "nothing", "nothing"),
        ] {
            assert_eq!(secrets(values).hide(text), shown, "{values:?}");
        }
    }

    #[test]
    fn debug_tells_names_alone() {
        assert_eq!(format!("{:?}", secrets(&["hunter2"])), r#"{"s0"}"#);
    }
}
