//! A proof that the log's batches came back, all and in their order.
//!
//! The database hashes what is in a batch of its log, but not the number that orders it: damage there
//! lets an older value win. So batch n writes n to two slots of a ring, its own and the next one's. A
//! batch that is lost, or ordered before the one ahead of it or behind the next, leaves a slot with
//! another number than the count demands.

/// The slots; the log is moved to tables before it holds as many batches.
const SLOTS: u64 = 1024;

/// After how many batches the log must have been moved to tables.
pub(super) const BATCHES_IN_LOG_MAX: u64 = SLOTS / 2;

/// The two slots that batch `n` writes.
pub(super) fn slots(n: u64) -> [u64; 2] {
    [n % SLOTS, (n + 1) % SLOTS]
}

/// The number that each slot must have after `n` batches; none where no batch wrote it.
pub(super) fn expected(n: u64) -> impl Iterator<Item = (u64, Option<u64>)> {
    (0..SLOTS).map(move |slot| {
        // The newest of its own writers, and of those that write it as the next one's.
        let newest = |slot: u64| n.checked_sub((n % SLOTS + SLOTS - slot) % SLOTS);
        (slot, newest(slot).max(newest((slot + SLOTS - 1) % SLOTS)).filter(|m| *m > 0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn slots_have_what_is_expected_only_in_order() {
        for n in [0, 1, 2, 1022, 1023, 1024, 1025, 3000] {
            let mut ring = BTreeMap::new();
            for m in 1..=n {
                ring.extend(slots(m).map(|s| (s, m)));
            }
            for (slot, number) in expected(n) {
                assert_eq!(ring.get(&slot).copied(), number, "slot {slot} after {n}");
            }
        }
        let n = 50;
        // One of the last batches lost, or moved to any other place.
        for moved in n - 20..=n {
            for to in (n - 30..=n).filter(|to| *to != moved && *to != moved - 1) {
                let mut order: Vec<u64> = (1..=n).filter(|m| *m != moved).collect();
                if to < n {
                    order.insert(to as usize, moved);
                }
                if order.is_sorted() && order.len() == n as usize {
                    continue;
                }
                let mut ring = BTreeMap::new();
                for m in order {
                    ring.extend(slots(m).map(|s| (s, m)));
                }
                let fits = expected(n).all(|(slot, number)| ring.get(&slot).copied() == number);
                assert!(!fits, "batch {moved} moved behind {to} is not seen");
            }
        }
    }
}
