//! A run of the binary that has ended.

use std::process::Output;

/// What it was.
pub struct Ran(pub Output);

impl Ran {
    pub fn out(&self) -> String {
        String::from_utf8_lossy(&self.0.stdout).into_owned()
    }

    pub fn err(&self) -> String {
        String::from_utf8_lossy(&self.0.stderr).into_owned()
    }

    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.0.status.code(), Some(code), "stdout:\n{}\nstderr:\n{}", self.out(), self.err());
        self
    }

    #[track_caller]
    pub fn says(self, parts: &[&str]) -> Self {
        let all = self.out() + &self.err();
        for part in parts {
            assert!(all.contains(part), "no {part:?} in\n{all}");
        }
        self
    }

    #[track_caller]
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.out()).unwrap_or_else(|e| panic!("{e}\n{}", self.out()))
    }
}
