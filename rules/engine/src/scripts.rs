//! The script engine: one per rule set, bounded, with nothing outside within its reach.
//!
//! This module owns rhai's engine and the registration of what sections may call; what those calls do is in
//! [`crate::memory::section`].

mod bounded;
mod guard;

use std::cell::Cell;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use rhai::{
    AST, CallFnOptions, Dynamic, Engine, EvalAltResult, FnPtr, ImmutableString, NativeCallContext, Scope,
    Token,
};
use rustc_hash::FxHashMap;

use crate::Value;
use crate::limits::Limits;
use crate::memory::section::Context;
use crate::steps::Steps;

/// The name of the function a script is wrapped in; no author can write it.
pub(crate) const ENTRY: &str = "__script";

/// What the word `call` becomes in a script: rhai keeps that name for calls of function pointers and would never look for
/// ours. Pointers are called by this name too; see [`register`].
pub(crate) const CALL: &str = "__call";

/// What a script is given when it starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Source {
    /// The bound fact or value of a level.
    Level,
    Result,
    Results,
    Error,
}

#[derive(Debug, Clone)]
pub(crate) struct Argument {
    pub name: String,
    pub source: Source,
    pub level: usize,
    /// The fields a condition reads of it.
    pub reads: u64,
}

/// A compiled script and its parameters.
pub(crate) struct Script {
    pub ast: AST,
    pub arguments: Vec<Argument>,
    /// The native form of a section, when it has one.
    pub steps: Option<Steps>,
}

impl fmt::Debug for Script {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Script")
            .field("arguments", &self.arguments)
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}

/// A fact as scripts hold it.
#[derive(Debug, Clone)]
pub(crate) struct Handle(pub u64);

/// The way from a script's call to the section that runs: the section's context is moved in for the time of the script.
#[derive(Debug, Clone, Default)]
pub(crate) struct Port(Arc<Mutex<Option<Box<Context>>>>);

impl Port {
    pub(crate) fn put(&self, context: Box<Context>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(context);
    }

    pub(crate) fn take(&self) -> Option<Box<Context>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// What the script of this thread has used; a thread runs one script at a time.
#[derive(Debug, Clone, Copy)]
struct Used {
    operations: u64,
    /// The parts of large values that were read since the last look at the clock.
    parts: usize,
    began_ms: u64,
    slow: bool,
}

/// After so many operations there is a look at the clock.
const OPERATIONS_A_LOOK: u64 = 1_024;

/// After so many parts of large values there is a look at the clock: whoever reads a value may copy it, and an operation
/// on a value of 400,000 parts takes as long as a hundred thousand others.
const PARTS_A_LOOK: usize = 1 << 18;

thread_local! {
    static USED: Cell<Used> = const { Cell::new(Used { operations: 0, parts: 0, began_ms: 0, slow: false }) };
}

impl Used {
    fn look(&mut self, bounds: &Bounds) {
        if let Some(clock) = bounds.clock {
            self.slow |= clock().saturating_sub(self.began_ms) > bounds.section_ms;
        }
    }
}

/// Counts an operation of the script that runs; answers why it has to stop.
///
/// The script engine counts too, but begins again at its caller's count in every call of a function pointer, and some of
/// its functions swallow the errors of those: `sort_by` with an endless comparator would go on for each pair.
fn count(limits: &Bounds) -> Option<String> {
    let mut used = USED.get();
    used.operations += 1;
    if used.operations.is_multiple_of(OPERATIONS_A_LOOK) {
        used.look(limits);
    }
    USED.set(used);
    if used.slow {
        Some(too_slow(limits.section_ms))
    } else if used.operations > limits.operations && limits.operations > 0 {
        Some(TOO_MANY.to_owned())
    } else {
        None
    }
}

/// A large value was read; a script that takes too long is stopped at its next operation.
fn read(bounds: &Bounds, parts: usize) {
    let mut used = USED.get();
    used.parts += parts;
    if used.parts >= PARTS_A_LOOK {
        used.parts = 0;
        used.look(bounds);
    }
    USED.set(used);
}

/// The bounds of one script.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    operations: u64,
    section_ms: u64,
    clock: Option<fn() -> u64>,
}

const TOO_MANY: &str = "the script takes too many operations";

/// The engine with the bounds of a rule set.
pub(crate) struct Scripts {
    pub engine: Engine,
    bounds: Bounds,
    /// The values that functions may hold.
    parts_max: usize,
}

type Scripted<T> = Result<T, Box<EvalAltResult>>;

impl Scripts {
    pub(crate) fn new(limits: &Limits, fields: &[Arc<str>]) -> Self {
        let mut engine = Engine::new();
        engine
            .set_optimization_level(rhai::OptimizationLevel::None)
            .set_max_operations(limits.operations)
            .set_max_call_levels(limits.call_depth)
            .set_max_expr_depths(limits.expression_depth, limits.expression_depth)
            .set_max_string_size(limits.string_bytes)
            .set_max_array_size(limits.list_length)
            .set_max_map_size(limits.map_length)
            .set_max_functions(1_000)
            .set_max_variables(1_000)
            .disable_symbol("eval")
            .on_print(|_| {})
            .on_debug(|_, _, _| {});
        let bounds = Bounds {
            operations: limits.operations,
            section_ms: limits.section_ms,
            clock: limits.clock,
        };
        engine.on_progress(move |_| count(&bounds).map(Dynamic::from));
        #[expect(deprecated, reason = "rhai marks it as volatile, not as leaving")]
        engine.on_parse_token(|token, _, _| match token {
            Token::Identifier(name) if *name == "call" => Token::Identifier(Box::new(CALL.into())),
            Token::Reserved(name) if *name == "call" => Token::Identifier(Box::new(CALL.into())),
            other => other,
        });
        register(&mut engine, fields);
        bounded::register(&mut engine, limits.string_bytes, limits.list_length);
        let mut scripts = Self {
            engine,
            bounds,
            parts_max: limits.list_length,
        };
        scripts.set_constants(&FxHashMap::default());
        scripts
    }

    /// A script begins on this thread.
    fn begin(&self) {
        guard::begin();
        USED.set(Used {
            operations: 0,
            parts: 0,
            began_ms: self.bounds.clock.map_or(0, |clock| clock()),
            slow: false,
        });
    }

    /// The value of a literal.
    pub(crate) fn literal(&self, text: &str) -> Result<Value, String> {
        self.begin();
        let value = self.engine.eval_expression::<Dynamic>(text);
        Value::from_dynamic(&value.map_err(|error| error.to_string())?)
    }

    /// Makes the file's constants visible in every script, and looks at what variables hold.
    pub(crate) fn set_constants(&mut self, constants: &FxHashMap<String, Value>) {
        let constants: FxHashMap<String, Dynamic> = constants
            .iter()
            .map(|(name, value)| (name.clone(), value.to_dynamic()))
            .collect();
        let (bounds, parts_max) = (self.bounds, self.parts_max);
        #[expect(deprecated, reason = "rhai marks it as volatile, not as leaving")]
        self.engine.on_var(move |name, from_end, context| {
            if let Some(constant) = constants.get(name) {
                return Ok(Some(constant.clone()));
            }
            let scope = context.scope();
            // The latest variable is the first of these, and has the number 1.
            let numbered = match from_end.checked_sub(1) {
                Some(at) => scope.iter_raw().nth(at).filter(|(known, ..)| *known == name),
                None => None,
            };
            let held = numbered.map(|(.., value)| value).or_else(|| scope.get(name));
            match held.map(|held| guard::look(held, parts_max, USED.get().operations)) {
                Some(Err(why)) => Err(EvalAltResult::ErrorRuntime(why.into(), rhai::Position::NONE).into()),
                Some(Ok(parts)) if parts > 0 => {
                    read(&bounds, parts);
                    Ok(None)
                }
                _ => Ok(None),
            }
        });
    }

    /// The value of a condition's script.
    pub(crate) fn evaluate(&self, script: &Script, arguments: Vec<Dynamic>) -> Result<Value, String> {
        self.begin();
        let options = CallFnOptions::new().eval_ast(false).with_tag(Dynamic::UNIT);
        let value: Dynamic = self
            .engine
            .call_fn_with_options(options, &mut Scope::new(), &script.ast, ENTRY, arguments)
            .map_err(|error| explain(&error).message)?;
        Value::from_dynamic(&value.flatten())
    }

    /// Runs a section's script; the context stands in `port` meanwhile.
    pub(crate) fn run(&self, script: &Script, port: &Port, arguments: Vec<Dynamic>) -> Result<(), Thrown> {
        self.begin();
        let options = CallFnOptions::new().eval_ast(false).with_tag(port.clone());
        self.engine
            .call_fn_with_options::<Dynamic>(options, &mut Scope::new(), &script.ast, ENTRY, arguments)
            .map(drop)
            .map_err(|error| explain(&error))
    }
}

/// What a script threw, and the line and column in the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Thrown {
    pub message: String,
    pub place: Option<(usize, usize)>,
}

/// What is said of a section that exceeds its time.
pub(crate) fn too_slow(bound_ms: u64) -> String {
    format!("the script ran longer than {bound_ms} ms")
}

fn explain(error: &EvalAltResult) -> Thrown {
    let mut inner = error;
    while let EvalAltResult::ErrorInFunctionCall(_, _, cause, _) = inner {
        inner = cause;
    }
    let position = inner.position();
    let place = position
        .line()
        .and_then(|line| Some((line.checked_sub(1)?, position.position().unwrap_or(1))));
    let message = match inner {
        EvalAltResult::ErrorRuntime(value, _) if value.is_string() => value.to_string(),
        EvalAltResult::ErrorRuntime(value, _) => {
            match value.as_map_ref().map(|map| map.get("message").cloned()) {
                Ok(Some(message)) => message.to_string(),
                _ => value.to_string(),
            }
        }
        EvalAltResult::ErrorTooManyOperations(_) => TOO_MANY.into(),
        EvalAltResult::ErrorStackOverflow(_) => "the script's calls nest too deep".into(),
        EvalAltResult::ErrorDataTooLarge(what, _) => format!("too large: {what}"),
        EvalAltResult::ErrorTerminated(why, _) => why.to_string(),
        EvalAltResult::ErrorFunctionNotFound(what, _) => {
            format!("no such function: {}", what.replace(CALL, "call"))
        }
        EvalAltResult::ErrorVariableNotFound(what, _) => format!("no such variable: {what}"),
        EvalAltResult::ErrorPropertyNotFound(what, _) => format!("no such property: {what}"),
        EvalAltResult::ErrorArithmetic(what, _) => what.clone(),
        other => {
            let text = other.to_string();
            match text.rfind(" (line ") {
                Some(at) => text[..at].to_owned(),
                None => text,
            }
        }
    };
    Thrown { message, place }
}

/// Does `act` with the context of the section that runs.
fn with<T>(call: &NativeCallContext<'_>, act: impl FnOnce(&mut Context) -> Result<T, String>) -> Scripted<T> {
    let outside = "facts can be touched, and effects made, in sections only";
    let port = call
        .tag()
        .and_then(|tag| tag.read_lock::<Port>())
        .ok_or(outside)?;
    let mut slot = port.0.lock().unwrap_or_else(PoisonError::into_inner);
    let context = slot.as_mut().ok_or(outside)?;
    act(context).map_err(|why| EvalAltResult::ErrorRuntime(why.into(), call.call_position()).into())
}

fn kept(value: &Dynamic) -> Result<Value, String> {
    Value::from_dynamic(value)
}

/// `print` and `debug` of a value of that type write a line into the run's log.
fn lines_of<T: Clone + Send + Sync + 'static>(engine: &mut Engine) {
    engine.register_fn(
        "print",
        |call: NativeCallContext<'_>, line: T| -> Scripted<ImmutableString> {
            with(&call, |context| {
                context.log("debug", &Dynamic::from(line).to_string())
            })?;
            Ok(ImmutableString::new())
        },
    );
    engine.register_fn(
        "debug",
        |call: NativeCallContext<'_>, line: T| -> Scripted<ImmutableString> {
            with(&call, |context| {
                context.log("debug", &format!("{:?}", Dynamic::from(line)))
            })?;
            Ok(ImmutableString::new())
        },
    );
}

fn register(engine: &mut Engine, fields: &[Arc<str>]) {
    engine.register_type_with_name::<Handle>("Fact");
    for field in fields {
        let name = Arc::clone(field);
        engine.register_get(
            field.as_ref(),
            move |call: NativeCallContext<'_>, fact: &mut Handle| {
                with(&call, |context| context.read(fact.0, &name))
            },
        );
        let name = Arc::clone(field);
        engine.register_set(
            field.as_ref(),
            move |call: NativeCallContext<'_>, fact: &mut Handle, value: Dynamic| {
                with(&call, |context| context.write(fact.0, &name, kept(&value)?))
            },
        );
    }
    engine.register_indexer_get(
        |call: NativeCallContext<'_>, fact: &mut Handle, field: ImmutableString| {
            with(&call, |context| context.read(fact.0, &field))
        },
    );
    engine.register_indexer_set(
        |call: NativeCallContext<'_>, fact: &mut Handle, field: ImmutableString, value: Dynamic| {
            with(&call, |context| context.write(fact.0, &field, kept(&value)?))
        },
    );
    engine.register_fn("==", |a: Handle, b: Handle| a.0 == b.0);
    engine.register_fn("!=", |a: Handle, b: Handle| a.0 != b.0);
    engine.register_fn(
        "insert",
        |call: NativeCallContext<'_>, fact_type: ImmutableString, fields: Dynamic| {
            with(&call, |context| {
                context.insert(&fact_type, &kept(&fields)?).map(Handle)
            })
        },
    );
    engine.register_fn("retract", |call: NativeCallContext<'_>, fact: Handle| {
        with(&call, |context| context.retract(fact.0))
    });
    engine.register_fn(
        CALL,
        |call: NativeCallContext<'_>, function: ImmutableString, input: Dynamic| {
            with(&call, |context| {
                context.call(&function, &kept(&input)?, &Value::Null)
            })
        },
    );
    engine.register_fn(
        CALL,
        |call: NativeCallContext<'_>, function: ImmutableString, input: Dynamic, options: Dynamic| {
            with(&call, |context| {
                context.call(&function, &kept(&input)?, &kept(&options)?)
            })
        },
    );
    engine.register_fn(
        "request",
        |call: NativeCallContext<'_>, target: ImmutableString, input: Dynamic| {
            with(&call, |context| {
                context.request(&target, &kept(&input)?, &Value::Null)
            })
        },
    );
    engine.register_fn(
        "request",
        |call: NativeCallContext<'_>, target: ImmutableString, input: Dynamic, options: Dynamic| {
            with(&call, |context| {
                context.request(&target, &kept(&input)?, &kept(&options)?)
            })
        },
    );
    engine.register_fn("timer", |call: NativeCallContext<'_>, when: Dynamic| {
        with(&call, |context| context.timer(&kept(&when)?))
    });
    engine.register_fn(
        "emit",
        |call: NativeCallContext<'_>, event_type: ImmutableString, content: Dynamic| {
            with(&call, |context| context.emit(&event_type, &kept(&content)?))
        },
    );
    engine.register_fn("complete", |call: NativeCallContext<'_>, result: Dynamic| {
        with(&call, |context| context.complete(&kept(&result)?))
    });
    engine.register_fn("complete", |call: NativeCallContext<'_>| {
        with(&call, |context| context.complete(&Value::Null))
    });
    engine.register_fn("fail", |call: NativeCallContext<'_>, message: ImmutableString| {
        with(&call, |context| context.fail(&message, None))
    });
    engine.register_fn(
        "fail",
        |call: NativeCallContext<'_>, message: ImmutableString, content: Dynamic| {
            with(&call, |context| context.fail(&message, Some(&kept(&content)?)))
        },
    );
    engine.register_fn("retry", |call: NativeCallContext<'_>| {
        with(&call, |context| context.retry(&Value::Null))
    });
    engine.register_fn("retry", |call: NativeCallContext<'_>, options: Dynamic| {
        with(&call, |context| context.retry(&kept(&options)?))
    });
    engine.register_fn("halt", |call: NativeCallContext<'_>| {
        with(&call, |context| {
            context.halting = true;
            Ok(())
        })
    });
    engine.register_fn("progress", |call: NativeCallContext<'_>, fraction: Dynamic| {
        with(&call, |context| context.progress(&kept(&fraction)?, ""))
    });
    engine.register_fn(
        "progress",
        |call: NativeCallContext<'_>, fraction: Dynamic, text: ImmutableString| {
            with(&call, |context| context.progress(&kept(&fraction)?, &text))
        },
    );
    engine.register_fn("log", |call: NativeCallContext<'_>, line: Dynamic| {
        with(&call, |context| context.log("info", &line.to_string()))
    });
    // The script language has a logarithm of this name, which it would prefer for fractions.
    engine.register_fn("log", |call: NativeCallContext<'_>, number: f64| {
        with(&call, |context| {
            context.log("info", &Dynamic::from(number).to_string())
        })
    });
    // The script language has its own `print` and `debug` for each of these types, which would be preferred.
    lines_of::<Dynamic>(engine);
    lines_of::<ImmutableString>(engine);
    lines_of::<i64>(engine);
    lines_of::<f64>(engine);
    lines_of::<bool>(engine);
    lines_of::<char>(engine);
    lines_of::<()>(engine);
    lines_of::<rhai::Array>(engine);
    lines_of::<rhai::Map>(engine);
    engine.register_fn("now", |call: NativeCallContext<'_>| {
        with(&call, |context| Ok(context.now_ms))
    });
    engine.register_fn("random", |call: NativeCallContext<'_>| {
        with(&call, |context| Ok(context.random()))
    });
    engine.register_fn("uid", |call: NativeCallContext<'_>| {
        with(&call, |context| Ok(context.uid()))
    });
    engine.register_fn("exists", |call: NativeCallContext<'_>, fact: Handle| {
        with(&call, |context| Ok(context.exists(fact.0)))
    });
    engine.register_fn(CALL, |call: NativeCallContext<'_>, pointer: FnPtr| {
        pointer.call_within_context::<Dynamic>(&call, ())
    });
    engine.register_fn(CALL, |call: NativeCallContext<'_>, pointer: FnPtr, a: Dynamic| {
        pointer.call_within_context::<Dynamic>(&call, (a,))
    });
    engine.register_fn(
        CALL,
        |call: NativeCallContext<'_>, pointer: FnPtr, a: Dynamic, b: Dynamic| {
            pointer.call_within_context::<Dynamic>(&call, (a, b))
        },
    );
    engine.register_fn("to_string", |fact: &mut Handle| format!("fact #{}", fact.0));
}
