//! Counts the messages of a key. `totals-2` is its next version, whose accumulators are others.

use wasmill_sdk::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Total(u64);

impl Aggregate for Total {
    const COMMUTATIVE: bool = true;

    fn fold(&mut self, _: &Message) -> Result<()> {
        self.0 += 1;
        Ok(())
    }

    fn merge(&mut self, later: Self) {
        self.0 += later.0;
    }

    fn finish(&self) -> impl Serialize {
        self.0
    }
}
aggregate!(Total);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{check_fold_law, message};

    #[test]
    fn the_fold_law_holds() {
        check_fold_law::<Total>(&vec![message("click"); 5]);
    }
}
