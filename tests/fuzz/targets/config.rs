//! Fuzz target: any text as a config file. It is compiled, or every fault has a place.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use understudy::build::{Inputs, build};

fuzz_target!(|input: &[u8]| {
    let Ok(text) = std::str::from_utf8(input) else { return };
    let file = ("config.yaml".to_owned(), Arc::<str>::from(text));
    let inputs = Inputs { files: [file].into_iter().collect(), ..Inputs::default() };
    if let Err(faults) = build(&inputs, None) {
        assert!(!faults.is_empty(), "what is refused has a fault");
    }
});
