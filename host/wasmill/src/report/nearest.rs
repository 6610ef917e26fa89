//! The nearest right name to a wrong one.

/// The name of `names` that `given` most likely means; none where all are far off.
#[must_use]
pub fn nearest<'a>(given: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |s: &str| s.to_lowercase().replace('-', "_");
    let given = plain(given);
    // A third of the letters may be wrong: more is another word.
    let errors_max = (given.chars().count() / 3).clamp(1, 4);
    names
        .into_iter()
        .map(|name| {
            let right = plain(name);
            let contained = given.len() >= 3 && right.split('_').any(|word| word == given);
            let distance = strsim::damerau_levenshtein(&given, &right);
            (if contained { distance.min(1) } else { distance }, name)
        })
        .filter(|(distance, _)| *distance <= errors_max)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// "did you mean …?", or the list of what there is.
#[must_use]
pub fn did_you_mean<'a>(given: &str, names: impl IntoIterator<Item = &'a str> + Clone) -> String {
    match nearest(given, names.clone()) {
        Some(name) => format!("did you mean `{name}`?"),
        None => {
            let names: Vec<String> = names.into_iter().map(|n| format!("`{n}`")).collect();
            match names.len() {
                0 => "nothing is known here".to_owned(),
                1 => format!("expected {}", names[0]),
                _ => format!("expected one of {}", names.join(", ")),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn typing_errors_find_their_name_and_other_words_find_none() {
        let names = ["workers", "batch_size", "plugin_dir", "dead_letter", "key_by"];
        for (given, expected) in [
            ("wokers", Some("workers")),
            ("WORKERS", Some("workers")),
            ("batch-size", Some("batch_size")),
            ("keyby", Some("key_by")),
            ("deadletter", Some("dead_letter")),
            ("parallelism", None),
            ("x", None),
        ] {
            assert_eq!(nearest(given, names), expected, "{given}");
        }
    }

    #[test]
    fn where_nothing_is_near_all_names_are_listed() {
        assert_eq!(did_you_mean("filee", ["file", "stdout"]), "did you mean `file`?");
        assert_eq!(did_you_mean("kafka", ["file", "stdin"]), "expected one of `file`, `stdin`");
    }
}
