//! The law of aggregates.

use super::{TestMessage, aggregate, finish, fold_into, merge};
use crate::Aggregate;

/// Checks the law of aggregates on these messages: wherever they are cut in two, folding the parts
/// one after the other, and folding each and merging, finishes to the same bytes as folding them at
/// once; for a commutative one, in the other order too.
///
/// # Panics
/// When it does not hold: with the cut and both values.
pub fn check_fold_law<A: Aggregate>(messages: &[TestMessage]) {
    let none = aggregate::initial::<A>();
    let fold = |into: &[u8], part: &[TestMessage]| fold_into::<A>(into, part).0;
    let whole = finish::<A>(&fold(&none, messages));
    let same = |what: &str, cut: usize, accumulator: &[u8]| {
        let other = finish::<A>(accumulator);
        assert!(
            other == whole,
            "{what}, cut behind message {cut} of {}:\n  it finishes to {}\n  all at once to {}",
            messages.len(),
            String::from_utf8_lossy(&other),
            String::from_utf8_lossy(&whole)
        );
    };
    for cut in 0..=messages.len() {
        let (a, b) = messages.split_at(cut);
        let (first, second) = (fold(&none, a), fold(&none, b));
        same("fold(b, fold(a))", cut, &fold(&first, b));
        same("merge(fold(a), fold(b))", cut, &merge::<A>(&first, &second));
        if A::COMMUTATIVE {
            same("commutative: fold(a, fold(b))", cut, &fold(&second, a));
            same("commutative: merge(fold(b), fold(a))", cut, &merge::<A>(&second, &first));
        }
    }
    let one_by_one = messages.iter().fold(none, |acc, m| fold(&acc, std::slice::from_ref(m)));
    same("one by one", messages.len(), &one_by_one);
}
