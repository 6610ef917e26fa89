//! Adds what later stages ask of a flight: the hour it left, in UTC, and how late it was, as a class.

use wasmill_sdk::prelude::*;

#[derive(Deserialize)]
struct Flight {
    dep_delay: Option<i64>,
}

fn enrich(message: &mut Message) -> Result<Verdict> {
    let flight: Flight = message.json()?;
    let Some(departure_ms) = message.timestamp() else {
        fail!("flight {} has no timestamp; map it by the pipeline's time.field", message.id());
    };
    message.set_metadata("hour_utc", departure_ms / 3_600_000 % 24);
    message.set_metadata("delay_class", delay_class(flight.dep_delay));
    Ok(Keep)
}
transform!(enrich);
wasmill_sdk::cases!("../../../examples/flights/enrich.cases.yaml");

/// By the bounds that the US Bureau of Transportation Statistics uses: 15 minutes is late.
fn delay_class(minutes: Option<i64>) -> &'static str {
    match minutes {
        None => "cancelled",
        Some(..=0) => "on_time",
        Some(1..15) => "slight",
        Some(15..60) => "late",
        Some(_) => "very_late",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmill_sdk::testing::{message, transform};

    #[test]
    fn each_delay_has_its_class() {
        for (delay, class) in [
            (json!(null), "cancelled"),
            (json!(-5), "on_time"),
            (json!(0), "on_time"),
            (json!(14), "slight"),
            (json!(15), "late"),
            (json!(60), "very_late"),
        ] {
            let flight = message("departed").timestamp(1_357_035_420_000).json(json!({ "dep_delay": delay }));
            let kept = transform(enrich, &flight);
            assert_eq!(kept.kept().text("delay_class"), Some(class), "{delay}");
            assert_eq!(kept.kept().text("hour_utc"), Some("10"));
            assert_eq!(kept.kept().payload, flight.payload, "the payload stays to the letter");
        }
    }

    #[test]
    fn a_flight_that_makes_no_sense_says_why() {
        let flight = message("departed").timestamp(0).json(json!({ "dep_delay": "soon" }));
        assert!(transform(enrich, &flight).failed().starts_with("payload.dep_delay: invalid type"));
        let flight = message("departed").id("UA1").json(json!({ "dep_delay": 1 }));
        assert!(transform(enrich, &flight).failed().starts_with("flight UA1 has no timestamp"));
    }
}
