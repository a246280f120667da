//! The bounds of scripts and runs, each with its reason.

/// What a run may use; exceeding one is a named error, never a crash.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Script operations in one section: about 50 ms of a core.
    pub operations: u64,
    /// Nested calls of script functions: each takes a few hundred bytes of stack times its expressions.
    pub call_depth: usize,
    /// Nested expressions: a parser recurses for each.
    pub expression_depth: usize,
    /// Bytes of one string: larger things are artifacts.
    pub string_bytes: usize,
    /// Elements of one list: a fan-out's list of results fits.
    pub list_length: usize,
    /// Entries of all maps within one value: the artifacts of a large fan-out in one list.
    pub map_length: usize,
    /// Firings in one turn: twice the largest fan-out; a cycle of rules is found in a fraction of a second.
    pub firings: u32,
    /// Facts of one run: twice the largest fan-out.
    pub facts: usize,
    /// Bytes of one fact: the platform's bound for inline JSON.
    pub fact_bytes: usize,
    /// Effects of one turn: a fan-out of 100,000 calls and a tenth more.
    pub effects: usize,
    /// Bytes of one effect's JSON: a list of some 40,000 artifacts; a host stores what is too long for a message.
    pub effect_bytes: usize,
    /// Bytes of all effects of one turn, their texts: 100,000 calls of a kilobyte each, and a third more.
    pub turn_bytes: usize,
    /// Bytes of the long values of all facts of a run: 200,000 facts of a kilobyte each, and a third more.
    pub run_bytes: usize,
    /// Times the calls of one firing may be made again by its `error` section.
    pub retries: u32,
    /// Milliseconds of one section, when the host gives a clock.
    pub section_ms: u64,
    /// Facts up to which a memory at rest keeps its facts only: what they determine is matched again in some
    /// microseconds when the run goes on, and idle runs are many. Not where conditions need the script engine.
    pub rest_facts: usize,
    /// A monotonic clock in milliseconds: the engine reads none of its own.
    pub clock: Option<fn() -> u64>,
    /// Whether sections run in native form where they have one; without it all run as scripts, for comparison.
    #[doc(hidden)]
    pub native_sections: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            operations: 1_000_000,
            call_depth: 32,
            expression_depth: 48,
            string_bytes: 1 << 20,
            list_length: 100_000,
            map_length: 400_000,
            firings: 200_000,
            facts: 200_000,
            fact_bytes: 32 << 10,
            effects: 110_000,
            effect_bytes: 4 << 20,
            turn_bytes: 128 << 20,
            run_bytes: 256 << 20,
            retries: 100,
            section_ms: 1_000,
            rest_facts: 64,
            clock: None,
            native_sections: true,
        }
    }
}
