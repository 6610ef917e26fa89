//! Gathers flights: how many left, how many were cancelled, how late they were.

use wasmill_sdk::prelude::*;

#[derive(Deserialize)]
struct Flight {
    dep_delay: Option<i32>,
}

/// Integers only: they add up to the same sum in any order.
#[derive(Default, Serialize, Deserialize)]
struct DelayStats {
    departures: u64,
    cancelled: u64,
    dep_delay_sum: i64,
    max_dep_delay: Option<i32>,
}

impl Aggregate for DelayStats {
    const COMMUTATIVE: bool = true;

    fn fold(&mut self, message: &Message) -> Result<()> {
        let flight: Flight = message.json()?;
        match (message.kind(), flight.dep_delay) {
            ("departed", Some(delay)) => {
                self.departures += 1;
                self.dep_delay_sum += i64::from(delay);
                self.max_dep_delay = self.max_dep_delay.max(Some(delay));
            }
            ("departed", None) => fail!("a flight that departed has no dep_delay"),
            ("cancelled", _) => self.cancelled += 1,
            (other, _) => fail!("a flight is of type departed or cancelled, not {other:?}"),
        }
        Ok(())
    }

    fn merge(&mut self, later: Self) {
        self.departures += later.departures;
        self.cancelled += later.cancelled;
        self.dep_delay_sum += later.dep_delay_sum;
        self.max_dep_delay = self.max_dep_delay.max(later.max_dep_delay);
    }

    fn finish(&self) -> impl Serialize {
        #[derive(Serialize)]
        struct Value {
            departures: u64,
            cancelled: u64,
            avg_dep_delay: Option<f64>,
            max_dep_delay: Option<i32>,
        }
        // Divided once, at the end: the average of the same flights has the same digits always.
        let average = (self.departures > 0).then(|| self.dep_delay_sum as f64 / self.departures as f64);
        Value {
            departures: self.departures,
            cancelled: self.cancelled,
            avg_dep_delay: average.map(|a| (a * 100.0).round() / 100.0),
            max_dep_delay: self.max_dep_delay,
        }
    }
}
aggregate!(DelayStats);

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{TestMessage, check_fold_law, fold, message};

    fn flights() -> Vec<TestMessage> {
        let departed = |delay: i32| message("departed").json(json!({ "dep_delay": delay, "carrier": "UA" }));
        let cancelled = message("cancelled").json(json!({ "dep_delay": null }));
        vec![departed(2), departed(-4), cancelled, departed(40), departed(-9)]
    }

    #[test]
    fn flights_add_up() {
        let value = fold::<DelayStats>(&flights()).value;
        let expected = r#"{"departures":4,"cancelled":1,"avg_dep_delay":7.25,"max_dep_delay":40}"#;
        assert_eq!(value.to_string(), expected);
    }

    #[test]
    fn no_departure_has_no_average() {
        let expected = r#"{"departures":0,"cancelled":1,"avg_dep_delay":null,"max_dep_delay":null}"#;
        assert_eq!(fold::<DelayStats>(&flights()[2..3]).value.to_string(), expected);
    }

    #[test]
    fn what_is_no_flight_fails_alone() {
        let mut messages = flights();
        messages.insert(1, message("landed").json(json!({ "dep_delay": 3 })));
        messages.insert(3, message("departed").json(json!({ "dep_delay": null })));
        let folded = fold::<DelayStats>(&messages);
        assert_eq!(folded.value, fold::<DelayStats>(&flights()).value);
        assert_eq!(
            folded.failed,
            [
                (1, r#"a flight is of type departed or cancelled, not "landed""#.to_owned()),
                (3, "a flight that departed has no dep_delay".to_owned()),
            ]
        );
    }

    #[test]
    fn the_fold_law_holds() {
        check_fold_law::<DelayStats>(&flights());
    }
}
