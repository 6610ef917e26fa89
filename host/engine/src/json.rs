//! What stands at several places of a JSON text, found in one pass that builds no value.

use std::borrow::Cow;
use std::ops::Range;

use serde::de::{DeserializeSeed, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Finds what stands at each of `paths`, which are sorted and differ, and none of which is empty: `found` has
/// a place for each. A name that stands twice in an object counts where it stands last.
///
/// # Errors
/// When the text is not JSON as far as the paths go.
pub(crate) fn find<'a>(
    json: &'a [u8],
    paths: &[Vec<String>],
    found: &mut [Option<&'a RawValue>],
) -> Result<(), serde_json::Error> {
    found.fill(None);
    let mut reader = serde_json::Deserializer::from_slice(json);
    Descend { paths, depth: 0, found }.deserialize(&mut reader)
}

/// Goes down the paths, which have their first `depth` names in common, and skips everything beside them.
struct Descend<'p, 'f, 'de> {
    paths: &'p [Vec<String>],
    depth: usize,
    found: &'f mut [Option<&'de RawValue>],
}

impl Descend<'_, '_, '_> {
    /// The paths that go on by a name. Sorted as they are, they stand together.
    fn by(&self, goes_on: impl Fn(&str) -> bool) -> Option<Range<usize>> {
        let by_name = |path: &Vec<String>| path.get(self.depth).is_some_and(|name| goes_on(name));
        let first = self.paths.iter().position(by_name)?;
        let count = self.paths[first..].iter().take_while(|path| by_name(path)).count();
        Some(first..first + count)
    }
}

impl<'de> DeserializeSeed<'de> for Descend<'_, '_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, d: D) -> Result<(), D::Error> {
        let Some((first, below)) = self.paths.split_first() else { return Ok(()) };
        if first.len() > self.depth {
            return d.deserialize_any(self);
        }
        let raw: &'de RawValue = serde::Deserialize::deserialize(d)?;
        let Some((place, found)) = self.found.split_first_mut() else { return Ok(()) };
        *place = Some(raw);
        if below.is_empty() {
            return Ok(());
        }
        // Both a value and parts of it are asked for.
        let mut reader = serde_json::Deserializer::from_str(raw.get());
        let below = Descend { paths: below, depth: self.depth, found };
        below.deserialize(&mut reader).map_err(D::Error::custom)
    }
}

#[derive(serde::Deserialize)]
pub(crate) struct Text<'a>(#[serde(borrow)] pub Cow<'a, str>);

impl<'de> Visitor<'de> for Descend<'_, '_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("JSON")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while let Some(Text(name)) = map.next_key()? {
            match self.by(|wanted| name == wanted) {
                Some(range) => {
                    let found = &mut self.found[range.clone()];
                    found.fill(None);
                    let paths = &self.paths[range];
                    map.next_value_seed(Descend { paths, depth: self.depth + 1, found })?;
                }
                None => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        for at in 0.. {
            let more = match self.by(|wanted| wanted.parse::<usize>() == Ok(at)) {
                Some(range) => {
                    let (paths, found) = (&self.paths[range.clone()], &mut self.found[range]);
                    seq.next_element_seed(Descend { paths, depth: self.depth + 1, found })?.is_some()
                }
                None => seq.next_element::<IgnoredAny>()?.is_some(),
            };
            if !more {
                break;
            }
        }
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }
    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }
    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }
    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }
    fn visit_str<E>(self, _: &str) -> Result<(), E> {
        Ok(())
    }
    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }
}
