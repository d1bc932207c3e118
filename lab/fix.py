import json,re,sys
from pathlib import Path
sys.path.insert(0,".")
from tests.data.test_demo import OPERATIONAL, DECLINES, first_sentence
p=Path("/work/tmp/new_harmful.jsonl"); rows=[json.loads(l) for l in p.read_text().splitlines()]
forms=["I can't","Sorry, I can't","I'm afraid I can't","No, I can't","I'm not able to","I won't","I'm not willing to","I'm unable to","I'm sorry, but I can't","Sorry, but I won't"]
n=0; out=[]
for r in rows:
    t=r["refusal"]
    if t.startswith("I'm sorry, but I can't "):
        t=forms[n%len(forms)]+t[len("I'm sorry, but I can't"):]; n+=1
    r["refusal"]=t
    bad=[]
    if OPERATIONAL.search(r["request"]) or OPERATIONAL.search(t): bad.append("oper")
    if not 6<=len(r["request"].split())<=20: bad.append("len")
    if not DECLINES.search(first_sentence(t)): bad.append("declines")
    if not len(re.split(r"[.;,!?]\s", t))>=3: bad.append("clauses")
    if not 20<=len(t.split())<=38: bad.append("rlen %d"%len(t.split()))
    if bad: print(r["kind"], bad, "|", t if "oper" not in bad else "")
    r["bad"]=bad; out.append(r)
keep=[{k:v for k,v in r.items() if k!="bad"} for r in out if not r["bad"]]
print(len(keep)); p.with_name("ok_harmful.jsonl").write_text("".join(json.dumps(r)+"\n" for r in keep))
