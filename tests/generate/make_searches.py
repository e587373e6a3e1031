#!/usr/bin/env python3
"""Continuations by transformers over a model that is a formula (formula_decoder.h): make_searches.py COUNT SEED OUT [KEPT].

Left out are cases without a definite answer: scores that are equal, lost in transformers' -1e9 or NaN (a growing end
token that another processor rules out is inf - inf there).  searches.json: the first 300 of 3000 with seed 7, made with
transformers 5.17.0 and torch 2.15.0 (CPU).
"""
import json, logging, math, random, sys, warnings
import numpy as np, torch
from transformers import PretrainedConfig, PreTrainedModel, GenerationMixin, GenerationConfig
from transformers.modeling_outputs import CausalLMOutputWithPast
warnings.filterwarnings("ignore"); logging.disable(logging.WARNING)

class FormulaConfig(PretrainedConfig):
    model_type="formula"
    def __init__(self, vocab_size=16, spread=8.0, **kw):
        self.vocab_size=vocab_size; self.spread=spread; super().__init__(**kw)

def logits_of(ids, vocab, spread):
    t=[int(x)+1 for x in ids[-3:]]
    while len(t)<3: t.insert(0,0)
    v=np.arange(1,vocab+1,dtype=np.uint64)
    M=np.uint64(0xFFFFFFFF)
    base=np.uint64((t[0]*73856093 ^ t[1]*19349663 ^ t[2]*83492791) & 0xFFFFFFFF)
    x=(base ^ (v*np.uint64(2654435761)))&M
    for _ in range(2):
        x^=x>>np.uint64(15); x=(x*np.uint64(2246822519))&M
        x^=x>>np.uint64(13); x=(x*np.uint64(3266489917))&M
    x^=x>>np.uint64(16)
    return ((x.astype(np.float64)/4294967296.0-0.5)*spread).astype(np.float32)

class Formula(PreTrainedModel, GenerationMixin):
    config_class=FormulaConfig
    main_input_name="input_ids"
    def __init__(self, config):
        super().__init__(config); self.p=torch.nn.Parameter(torch.zeros(1)); self.post_init()
    def forward(self, input_ids=None, attention_mask=None, return_dict=True, **kw):
        rows=[]
        for r,row in enumerate(input_ids.tolist()):
            rows.append(logits_of(row,self.config.vocab_size,self.config.spread))
        return CausalLMOutputWithPast(logits=torch.tensor(np.stack(rows))[:,None,:])
    def prepare_inputs_for_generation(self, input_ids, **kw): return {"input_ids":input_ids}

def run(case):
    m=Formula(FormulaConfig(case["vocab_size"],case["spread"]))
    p=dict(case["parameters"])
    if "sequence_bias" in p: p["sequence_bias"]=[[a,float(b)] for a,b in p["sequence_bias"]]
    if "exponential_decay_length_penalty" in p: p["exponential_decay_length_penalty"]=tuple(p["exponential_decay_length_penalty"])
    m.generation_config=GenerationConfig(pad_token_id=0)
    out=m.generate(torch.tensor([case["prompt"]]), use_cache=False, return_dict_in_generate=True, output_scores=True, **p)
    eos=p.get("eos_token_id",[]); eos=[eos] if isinstance(eos,int) else eos
    res=[]
    for i,s in enumerate(out.sequences.tolist()):
        new=s[len(case["prompt"]):]
        for j,t in enumerate(new):
            if t in eos: new=new[:j+1]; break
        res.append(new)
    case["new_ids"]=res
    if p.get("num_beams",1)>1: case["scores"]=[float(x) for x in out.sequences_scores]
    return case

def random_case(rng, beams=True):
    V=rng.choice([5,8,16,40,100])
    p={"max_new_tokens":rng.choice([1,2,5,10,20])}
    if beams:
        p["num_beams"]=rng.choice([2,3,4,5])
        if rng.random()<.7: p["length_penalty"]=rng.choice([0.0,0.5,1.0,2.0,-1.0])
        if rng.random()<.7: p["early_stopping"]=rng.choice([False,True,"never"])
        if rng.random()<.5: p["num_return_sequences"]=rng.randint(1,p["num_beams"])
    if rng.random()<.85: 
        k=rng.choice([1,1,1,2,3]); e=rng.sample(range(V),k); p["eos_token_id"]=e if k>1 else e[0]
    if rng.random()<.3: p["repetition_penalty"]=rng.choice([0.7,1.3])
    if rng.random()<.3: p["no_repeat_ngram_size"]=rng.choice([2,3])
    if rng.random()<.2 and "eos_token_id" in p: p["min_new_tokens"]=rng.choice([2,4])
    if rng.random()<.2 and "eos_token_id" in p: p["min_length"]=rng.choice([3,6])
    if rng.random()<.15: p["bad_words_ids"]=[[rng.randrange(1,V)],[rng.randrange(V),rng.randrange(V)]]
    if rng.random()<.15: p["sequence_bias"]=[[[rng.randrange(1,V)],1.5],[[rng.randrange(1,V),rng.randrange(1,V)],-2.5]]
    if rng.random()<.1: p["suppress_tokens"]=[rng.randrange(V)]
    if rng.random()<.1: p["begin_suppress_tokens"]=[rng.randrange(V)]
    if rng.random()<.1: p["forced_bos_token_id"]=rng.randrange(V)
    if rng.random()<.15: p["forced_eos_token_id"]=rng.randrange(V)
    if rng.random()<.1 and "eos_token_id" in p: p["exponential_decay_length_penalty"]=[rng.randint(0,4),rng.choice([1.1,1.5])]
    if rng.random()<.2: p["renormalize_logits"]=True
    if rng.random()<.2: p["remove_invalid_values"]=True
    return {"vocab_size":V,"spread":rng.choice([1.0,4.0,8.0,16.0]),"prompt":[rng.randrange(V) for _ in range(rng.randint(1,6))],"parameters":p}

RULE_OUT=("min_length","min_new_tokens","bad_words_ids","suppress_tokens","begin_suppress_tokens","forced_bos_token_id",
          "forced_eos_token_id","no_repeat_ngram_size")

def definite(case):
    p,s=case["parameters"],case.get("scores",[])
    if "exponential_decay_length_penalty" in p and any(name in p for name in RULE_OUT): return False
    if any(math.isnan(x) or x<-1e8 for x in s): return False
    return all(abs(a-b)>1e-6 for i,a in enumerate(s) for b in s[:i])

if __name__=="__main__":
    n, seed, out = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    rng=random.Random(seed); cases=[]; bad=0
    while len(cases)<n:
        c=random_case(rng, rng.random()<.8)
        try: cases.append(run(c))
        except Exception as e:
            bad+=1
            if bad<6: print("skip",type(e).__name__,str(e)[:150],c["parameters"],file=sys.stderr)
    cases=[c for c in cases if definite(c)][:int(sys.argv[4]) if len(sys.argv)>4 else None]
    with open(out,"w") as f:
        f.write("[\n"+",\n".join(json.dumps(c) for c in cases)+"\n]\n")
    print(len(cases),"cases",bad,"skipped")
