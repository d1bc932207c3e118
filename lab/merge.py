"""Adds new rows to the demo's training split, but those too like a validation or test row (counts only)."""
import json, re, sys, itertools, random
from pathlib import Path
demo = Path("nt_jax/data/demo"); new = Path("/work/tmp")
words = lambda t: frozenset(re.findall(r"[a-z0-9']+", t.lower().replace("{request}"," ")))
read = lambda p: [json.loads(l) for l in p.read_text().splitlines() if l.strip()]
jac = lambda a,b: len(a&b)/max(1,len(a|b))
H, S, T = (read(demo/f"{n}.jsonl") for n in ("harmful","harmless","templates"))
held = [words(r["request"]) for r in H+S if r["split"]!="train"]
heldT = [words(r["text"]) for r in T if r["split"]!="train"]
heldR = [words(r["refusal"]) for r in H if r["split"]!="train"]
seen = {r["request"].lower() for r in H+S}; seenT={r["text"] for r in T}
def fresh(rows, key, held, most, seen):
    out=[]; dropped=0
    for r in rows:
        w=words(r[key])
        if r[key].lower() in seen or any(jac(w,h)>=most for h in held): dropped+=1; continue
        seen.add(r[key].lower()); out.append(r)
    print(key, "kept", len(out), "dropped", dropped); return out
nh = fresh(read(new/"ok_harmful.jsonl"), "request", held, .5, seen)
nh = [r for r in nh if not any(jac(words(r["refusal"]),h)>=.5 for h in heldR)]; print(len(nh))
ns = fresh(read(new/"new_sounds.jsonl"), "request", held, .5, seen)
npl = fresh(read(new/"new_plain.jsonl"), "request", held, .5, seen)
nt = fresh(read(new/"new_templates.jsonl"), "text", heldT, .3, seenT)
def nextid(rows, pre):
    return max(int(r["id"].split("-")[1]) for r in rows)+1
def put(rows, extra, pre, width, fields):
    n=nextid(rows,pre); out=[]
    for r in extra:
        row={"id": f"{pre}-{n:0{width}d}", **{k:r[k] for k in fields if k in r}, "split":"train"}; n+=1; out.append(row)
    return out
# harmless: mix sounds/plain evenly
mixed=[]; a,b=list(ns),list(npl); total=len(a)+len(b); ia=ib=0
for i in range(total):
    if ib*len(a) <= ia*len(b) and ib<len(b): mixed.append(b[ib]); ib+=1
    elif ia<len(a): mixed.append(a[ia]); ia+=1
    else: mixed.append(b[ib]); ib+=1
def write(name, rows, extra):
    # training rows first, as the file has them
    tr=[r for r in rows if r["split"]=="train"]; rest=[r for r in rows if r["split"]!="train"]
    order = tr+extra+rest
    (demo/f"{name}.jsonl").write_text("".join(json.dumps(r, ensure_ascii=False)+"\n" for r in order), encoding="utf-8")
    print(name, len(tr)+len(extra), len(rest))
write("harmful", H, put(H, nh, "harm", 3, ("kind","request","refusal")))
write("harmless", S, put(S, mixed, "safe", 3, ("request","sounds_harmful")))
write("templates", T, put(T, nt, "attack", 2, ("types","text")))
