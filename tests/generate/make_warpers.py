#!/usr/bin/env python3
"""Which tokens transformers' warpers keep of scores that are a formula (transformers_warper_test.cpp):
make_warpers.py COUNT SEED OUT.  warpers.json: 250 with seed 8, made with transformers 5.17.0 and torch 2.15.0.
"""
import json, random, sys
import numpy as np, torch
from transformers.generation import logits_process as L

def scores_of(c):
    v=np.arange(1,c["vocab_size"]+1,dtype=np.uint64); M=np.uint64(0xFFFFFFFF)
    x=(np.uint64(c["seed"]) ^ (v*np.uint64(2654435761)))&M
    for _ in range(2):
        x^=x>>np.uint64(15); x=(x*np.uint64(2246822519))&M
        x^=x>>np.uint64(13); x=(x*np.uint64(3266489917))&M
    x^=x>>np.uint64(16)
    u=x.astype(np.float64)/4294967296.0
    if c["levels"]: u=np.floor(u*c["levels"])/c["levels"]
    s=((u-0.5)*c["spread"]).astype(np.float32)
    if c["ruled_out_below"]>-1e9: s[s<c["ruled_out_below"]]=-np.inf
    return s
MAKE={
 "top_k":lambda p,k:L.TopKLogitsWarper(p,min_tokens_to_keep=k),
 "top_p":lambda p,k:L.TopPLogitsWarper(p,min_tokens_to_keep=k),
 "top_h":lambda p,k:L.TopHLogitsWarper(p),
 "min_p":lambda p,k:L.MinPLogitsWarper(p,min_tokens_to_keep=k),
 "typical_p":lambda p,k:L.TypicalLogitsWarper(p,min_tokens_to_keep=k),
 "epsilon_cutoff":lambda p,k:L.EpsilonLogitsWarper(p,min_tokens_to_keep=k),
 "eta_cutoff":lambda p,k:L.EtaLogitsWarper(p,min_tokens_to_keep=k)}
PARAM={"top_k":[1,2,7,50,300],"top_p":[0.0,0.05,0.3,0.8,0.95,0.999,1.0],"top_h":[0.1,0.4,0.9],"min_p":[0.0,0.01,0.1,0.7,1.0],
 "typical_p":[0.05,0.2,0.5,0.9,0.99],"epsilon_cutoff":[1e-4,3e-3,0.05,0.5],"eta_cutoff":[1e-4,3e-3,0.05,0.5]}
def main(n,seed,out):
    rng=random.Random(seed); cases=[]
    while len(cases)<n:
        name=rng.choice(list(MAKE))
        c={"processor":name,"parameter":rng.choice(PARAM[name]),"min_tokens_to_keep":rng.choice([1,1,2,3]),
           "vocab_size":rng.choice([3,40,300,1000]),"seed":rng.getrandbits(32),"levels":rng.choice([0,0,0,4,16]),
           "spread":rng.choice([0.5,4.0,12.0,24.0]),"ruled_out_below":rng.choice([-1e9,-1e9,0.0])}
        if name=="top_k" : c["min_tokens_to_keep"]=1
        s=torch.tensor(scores_of(c))[None]
        if not torch.isfinite(s).any(): continue
        o=MAKE[name](c["parameter"],c["min_tokens_to_keep"])(torch.zeros((1,1),dtype=torch.long),s.clone())
        kept=torch.isfinite(o[0]).nonzero()[:,0].tolist()
        c["kept"]=kept if len(kept)<60 else kept[:60]; c["kept_count"]=len(kept)
        cases.append(c)
    open(out,"w").write("[\n"+",\n".join(json.dumps(c) for c in cases)+"\n]\n")
main(int(sys.argv[1]),int(sys.argv[2]),sys.argv[3])
