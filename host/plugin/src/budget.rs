//! What a plugin's calls are bounded by, one name each: a pipeline spec's, which metrics and errors use too.

/// One of the budgets of a plugin's calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Budget {
    /// The time of a batch.
    Deadline,
    /// The instructions of a verdict.
    Fuel,
    /// All memories and tables of an instance.
    Memory,
    /// The bytes of an answer.
    Answer,
    /// The messages emitted for one message.
    Outputs,
    /// The bytes of the copies among them.
    Copies,
    /// The bytes of a call's names and values of state.
    State,
    /// The entries of state that a call reads or changes.
    StateKeys,
    /// The lines written to the log in a second.
    LogLines,
    /// The bytes of one of them.
    LogLine,
    /// The calls to the host in a call.
    HostCalls,
    /// The time that they may take together.
    HostWait,
    /// The counters of the plugin's own.
    Counters,
}

impl Budget {
    /// Every budget, in the order of their numbers.
    pub const ALL: [Self; 13] = [
        Self::Deadline,
        Self::Fuel,
        Self::Memory,
        Self::Answer,
        Self::Outputs,
        Self::Copies,
        Self::State,
        Self::StateKeys,
        Self::LogLines,
        Self::LogLine,
        Self::HostCalls,
        Self::HostWait,
        Self::Counters,
    ];

    /// Its key under `limits` in a pipeline spec.
    pub fn name(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Fuel => "fuel",
            Self::Memory => "memory",
            Self::Answer => "answer",
            Self::Outputs => "outputs",
            Self::Copies => "copies",
            Self::State => "state",
            Self::StateKeys => "state_keys",
            Self::LogLines => "log_lines",
            Self::LogLine => "log_line",
            Self::HostCalls => "host_calls",
            Self::HostWait => "host_wait",
            Self::Counters => "counters",
        }
    }

    /// The budget of this name.
    pub fn of(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|budget| budget.name() == name)
    }
}

#[cfg(test)]
mod tests {
    use super::Budget;

    #[test]
    fn each_budget_stands_at_its_number_under_its_own_name() {
        for (at, budget) in Budget::ALL.into_iter().enumerate() {
            assert_eq!(budget as usize, at);
            assert_eq!(Budget::of(budget.name()), Some(budget));
        }
    }
}
