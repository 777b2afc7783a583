"""Compare finished runs: tables, paired statistics, plots and a page. Reads run folders and knows no network.

- `variants` groups the runs.
- `scores` and `statistics` find which differences are more than noise.
- `tables`, `plots`, `pictures` and `page` show them, and `report` puts them together.
- `claims` and `costs` do the same for the experiments of this project.
"""
