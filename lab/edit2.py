import re
p='docs/tuning.md'; s=open(p).read()
def cut(a,b):
    i=s.index(a); j=s.index(b,i+1); return s[i:j]
learned=cut("## What is learned","## What each part did"); parts=cut("## What each part did","## The demo"); demo=cut("## The demo","## What an epoch costs")
fell=cut("## What fell short","## More data, and how")
new=learned.replace('''It is given only if each of its tokens is the likeliest one, so the
decision is a number that the unlikeliest token rules: the logarithm of the harmonic mean of the
probabilities of its first eight tokens (`decisions` in `nt_jax/train/objectives.py`). A mean of
log-likelihoods grows by what is likely already.''','''It is given only if each of its tokens is the likeliest one, so the
decision is a number that the unlikeliest token rules: a log odds, minus the logarithm of the summed
odds against its first eight tokens (`decisions` in `nt_jax/train/objectives.py`). A mean of
log-likelihoods grows by what is likely already.

**What a good answer may not even begin with.** Of a harmless request the decision is that on the
opening's beginning alone, up to its first comma: "I'm sorry" (`begun` in `nt_jax/train/slopes.py`).
Most refusals that a tuned model gives leave the opening on the way ("I'm sorry for the confusion,
but as a chatbot ..."), and those of harmless requests nearly always. A decision on the whole
opening does not see them: its later words can be pushed down while an apology gets likelier for
everybody.''')
new=new.replace('''- *Which step*: each epoch measures decisions and slopes of 720 prompts at the factors that the
  inner loop has adapted, and steps by their logistic regression (`nt_jax/train/regression.py`,
  `nt_jax/train/outer.py`). Prompts that are well on their side count for little, so a step is about
  the others; the next epoch looks again, with other attacks around the prompts. `tune.meta_lr` says
  by how many nats a step moves decisions, so few neurons go further than many.''','''- *Which step*: each epoch measures decisions and slopes of 1,440 prompts at the factors that the
  inner loop has adapted, and steps by their logistic regression (`nt_jax/train/regression.py`,
  `nt_jax/train/outer.py`). Prompts that are well on their side count for little, so a step is about
  the others; the next epoch looks again, with other attacks around the prompts. `tune.meta_lr` says
  how long a step is: a thirtieth, as the root mean square over all neurons of the layers that hold
  a chosen one, is about as far as slopes hold (0.04 over the demo's 16,000 chosen ones).''')
assert new!=learned and "1,440" in new and "summed\nodds" in new and "begun" in new
history=('''## The recipe before this one, measured

What follows, up to the next heading of this size, was measured with the recipe of 27 November at
commit ce8b1f3: 180 harmful and 315 harmless training requests inside 34 attacks, decisions as the
logarithm of the harmonic mean of the tokens' probabilities, on the whole opening in all cells, and
six steps of one nat (the root mean square over the decisions, falling along a half cosine) on 720
prompts each.

'''+parts.replace("## What each part did","### What each of its parts did, then")+demo.replace("## The demo","### The demo with it, then").replace("    make demo\n","    git checkout ce8b1f3 && make demo\n"))
s=s.replace(learned,new+open('/work/tmp/parts3.md').read()+open('/work/tmp/demo3.md').read()).replace(parts,"").replace(demo,"").replace(fell,open('/work/tmp/fell3.md').read())
i=s.index("## More data, and how far a step may go")
s=s[:i]+history+s[i:]
for t in ("More data, and how far a step may go","A dial that lifts, and log odds","Still more data, steps of a length, and lines drawn apart"):
    s=s.replace("## "+t,"### "+t)
open(p,'w').write(s)
