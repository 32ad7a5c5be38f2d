//! The families by name.

use std::fmt;

/// A family of models: `model_type` in `config.json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Family {
    /// `llama`, and the many models that use its layout.
    Llama,
    /// `mistral`
    Mistral,
    /// `qwen2`
    Qwen2,
    /// `qwen3`
    Qwen3,
    /// `olmo`
    Olmo,
    /// `olmo2`
    Olmo2,
    /// `smollm3`
    SmolLm3,
    /// `gpt2`
    Gpt2,
    /// `gpt_neox`: also Pythia
    GptNeoX,
}

impl Family {
    /// All that are supported.
    pub const ALL: [Self; 9] = [
        Self::Llama,
        Self::Mistral,
        Self::Qwen2,
        Self::Qwen3,
        Self::Olmo,
        Self::Olmo2,
        Self::SmolLm3,
        Self::Gpt2,
        Self::GptNeoX,
    ];

    /// `model_type` in `config.json`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Llama => "llama",
            Self::Mistral => "mistral",
            Self::Qwen2 => "qwen2",
            Self::Qwen3 => "qwen3",
            Self::Olmo => "olmo",
            Self::Olmo2 => "olmo2",
            Self::SmolLm3 => "smollm3",
            Self::Gpt2 => "gpt2",
            Self::GptNeoX => "gpt_neox",
        }
    }

    /// The family of a `model_type`.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|family| family.name() == name)
    }

    /// The class of transformers, as written into `architectures`.
    #[must_use]
    pub fn class(self) -> &'static str {
        match self {
            Self::Llama => "LlamaForCausalLM",
            Self::Mistral => "MistralForCausalLM",
            Self::Qwen2 => "Qwen2ForCausalLM",
            Self::Qwen3 => "Qwen3ForCausalLM",
            Self::Olmo => "OlmoForCausalLM",
            Self::Olmo2 => "Olmo2ForCausalLM",
            Self::SmolLm3 => "SmolLM3ForCausalLM",
            Self::Gpt2 => "GPT2LMHeadModel",
            Self::GptNeoX => "GPTNeoXForCausalLM",
        }
    }
}

impl fmt::Display for Family {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}
