//! `min`, `max`, `first`, `last`: one message's value; `top_k`: some of them.
//!
//! Section: a body, empty or with one entry; of `top_k` a table of entries, the best first. An entry is the
//! message's place and the value as JSON, numbers to the letter.

use std::cmp::Ordering;

use super::number::Number;
use super::place::Place;
use super::section::{self, Table};
use super::value::Value;

/// Which of two messages is the better one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Best {
    Least,
    Greatest,
    Earliest,
    Latest,
}

/// A message as an entry.
pub(crate) fn entry(place: &Place, value: &Value<'_>) -> Vec<u8> {
    let mut entry = place.as_bytes().to_vec();
    value.write(&mut entry);
    entry
}

/// The value of an entry, as JSON.
pub(crate) fn json_of(entry: &[u8]) -> &[u8] {
    entry.get(Place::BYTES..).unwrap_or_default()
}

impl Best {
    /// Less: the left entry is better. Of equal values the earlier message's is; places differ, but for the
    /// texts' sake this is a total order whatever they are.
    fn order(self, left: &[u8], right: &[u8]) -> Ordering {
        let places = || left.cmp(right);
        match self {
            Self::Least => number(left).order(number(right)).then_with(places),
            Self::Greatest => number(right).order(number(left)).then_with(places),
            Self::Earliest => places(),
            Self::Latest => right.cmp(left),
        }
    }
}

fn number(entry: &[u8]) -> Number {
    let text = std::str::from_utf8(json_of(entry)).unwrap_or_default();
    match Number::parse(text) {
        Some(Ok(number)) => number,
        // Only numbers are put in.
        _ => Number::Int(0),
    }
}

pub(crate) fn fold_one(bytes: &mut Vec<u8>, at: usize, best: Best, place: &Place, value: &Value<'_>) {
    let range = section::body_range(bytes, at);
    let held = &bytes[range.clone()];
    if !held.is_empty() && !may_win(best, held, place, value) {
        return;
    }
    let new = entry(place, value);
    if held.is_empty() || best.order(&new, held) == Ordering::Less {
        section::replace(bytes, at, range, &new);
    }
}

/// Whether a message can be better than an entry, as its number alone tells: most can't, and cost no entry.
fn may_win(best: Best, held: &[u8], place: &Place, value: &Value<'_>) -> bool {
    let held_place = held.get(..Place::BYTES).unwrap_or_default();
    let order = |new: &Value<'_>| match new {
        Value::Literal(Some(new), _) => new.order(number(held)),
        _ => Ordering::Equal,
    };
    match best {
        Best::Least => order(value).then_with(|| place.as_bytes().cmp(held_place)) != Ordering::Greater,
        Best::Greatest => {
            order(value).reverse().then_with(|| place.as_bytes().cmp(held_place)) != Ordering::Greater
        }
        Best::Earliest => place.as_bytes() <= held_place,
        Best::Latest => place.as_bytes() >= held_place,
    }
}

pub(crate) fn merge_one(left: &[u8], right: &[u8], best: Best, into: &mut Vec<u8>) {
    let (left, right) = (section::body(left), section::body(right));
    let left_wins = right.is_empty() || !left.is_empty() && best.order(left, right) == Ordering::Less;
    section::push_body(into, if left_wins { left } else { right });
}

pub(crate) fn fold_top(bytes: &mut Vec<u8>, at: usize, k: usize, place: &Place, value: &Value<'_>) {
    let body = section::body_range(bytes, at);
    let table = Table::of(&bytes[body]);
    let full = table.len() >= k;
    if full && !may_win(Best::Greatest, table.get(k - 1), place, value) {
        return;
    }
    let new = entry(place, value);
    let (Ok(i) | Err(i)) = table.search(|held| Best::Greatest.order(held, &new));
    if i < k {
        section::insert(bytes, at, i, &new);
        if full {
            section::remove_last(bytes, at);
        }
    }
}

pub(crate) fn merge_top(left: &[u8], right: &[u8], k: usize, into: &mut Vec<u8>) {
    let (left, right) = (Table::of(section::body(left)), Table::of(section::body(right)));
    let mut all: Vec<&[u8]> = left.iter().chain(right.iter()).collect();
    all.sort_by(|a, b| Best::Greatest.order(a, b));
    all.truncate(k);
    section::push_table(into, &all);
}
