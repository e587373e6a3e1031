#pragma once

/// Everything a program that uses the library needs.
#include "mamba2/base/error.h"
#include "mamba2/generate/engine.h"
#include "mamba2/generate/generate.h"
#include "mamba2/model/modeling_mamba2.h"
#include "mamba2/pipeline/auto.h"
#include "mamba2/pipeline/pipeline.h"
#include "mamba2/tokenizer/tokenizer.h"
