//! Counts the messages of a key as `totals` does, and how many of them that one had counted: it migrates its state.

use wasmill_sdk::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Total {
    count: u64,
    migrated: u64,
}

impl Aggregate for Total {
    const COMMUTATIVE: bool = true;
    const STATE_VERSION: u32 = 2;

    fn fold(&mut self, _: &Message) -> Result<()> {
        self.count += 1;
        Ok(())
    }

    fn merge(&mut self, later: Self) {
        self.count += later.count;
        self.migrated += later.migrated;
    }

    fn finish(&self) -> impl Serialize {
        json!({ "count": self.count, "migrated": self.migrated })
    }
}

impl Migrate for Total {
    fn migrate(from_version: u32, old: &[u8]) -> Result<Self> {
        let 1 = from_version else { fail!("state version {from_version} is not known") };
        let count: u64 = wasmill_sdk::decode(old)?;
        Ok(Self { count, migrated: count })
    }
}
aggregate!(Total, migrate);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{check_fold_law, message};

    #[test]
    fn the_fold_law_holds() {
        check_fold_law::<Total>(&vec![message("click"); 5]);
    }
}
