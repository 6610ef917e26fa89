//! Counts the messages of a key (the environment mode's key is the type) and writes the count so far
//! into each message, as text.

use wasmill_sdk::prelude::*;

#[derive(Default, Serialize, Deserialize)]
struct Count(u64);

impl Aggregate for Count {
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

impl Scan for Count {
    fn scan(&mut self, message: &mut Message) -> Result<Verdict> {
        self.fold(message)?;
        message.set_metadata("total_count", self.0);
        Ok(Keep)
    }
}
scan!(Count);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{check_fold_law, message, scan};

    #[test]
    fn each_message_carries_the_count_so_far() {
        let messages = vec![message("click"); 12];
        let (outcomes, folded) = scan::<Count>(&messages);
        let counts: Vec<_> = outcomes.iter().filter_map(|o| o.kept().text("total_count")).collect();
        assert_eq!(counts.join(" "), "1 2 3 4 5 6 7 8 9 10 11 12");
        assert_eq!(folded.value, json!(12));
    }

    #[test]
    fn the_fold_law_holds() {
        check_fold_law::<Count>(&vec![message("click"); 5]);
    }
}
